# shellcheck shell=bash
# To be sourced from the repository's root: makes .venv on first use, installs what requirements.txt pins, and enters it.

# install_pins FILE: what it pins, if that has changed since it was installed.
install_pins() {
    if cmp -s "$1" ".venv/$1"; then
        return
    fi
    echo "Installing $1 into .venv (once; it takes some minutes)" >&2
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r "$1"
    cp "$1" ".venv/$1"
}

if [[ ! -f .venv/requirements.txt ]]; then
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed")'
    python3 -m venv .venv
fi
install_pins requirements.txt
source .venv/bin/activate
