# To be sourced from the repository's root: makes .venv on first use, or when requirements.txt has changed, and enters it.
if ! cmp -s requirements.txt .venv/requirements.txt; then
    echo "Setting up .venv (once; it takes some minutes)" >&2
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed")'
    python3 -m venv .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
    cp requirements.txt .venv/requirements.txt
fi
source .venv/bin/activate
