"""Results in an object store: a server that speaks the S3 protocol, on the loopback address."""

import signal
import urllib.request
from pathlib import Path

import boto3
import psutil
import pytest
from moto.server import ThreadedMotoServer

from horizons.validation import validate_triple
from workflows import Workflow, contents, finished_batches, slow_down, write_experiment

BUCKET, PREFIX = "bucket", "project"


class Store:
    """The server, and what is in its bucket."""

    def __init__(self, port):
        self.endpoint = f"http://127.0.0.1:{port}"
        self.credentials = {"AWS_ACCESS_KEY_ID": "anyone", "AWS_SECRET_ACCESS_KEY": "anything"}
        self.client = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id="anyone",
            aws_secret_access_key="anything",
        )
        self.client.create_bucket(Bucket=BUCKET)
        # Snakemake's plugin removes a bucket in which nothing is left.
        self.client.put_object(Bucket=BUCKET, Key="of-others", Body=b"")

    def forget_everything(self):
        """The server's objects are those of the process, and would be there for the next one."""
        urllib.request.urlopen(urllib.request.Request(f"{self.endpoint}/moto-api/reset", method="POST")).close()

    def objects(self, folder=""):
        listed = self.client.list_objects_v2(Bucket=BUCKET, Prefix=f"{PREFIX}/{folder}").get("Contents", [])
        return [entry["Key"].removeprefix(f"{PREFIX}/") for entry in listed]

    def unfinished_uploads(self):
        return self.client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])

    def download(self, folder, target):
        for key in self.objects(folder):
            path = target / Path(key).relative_to(folder)
            path.parent.mkdir(parents=True, exist_ok=True)
            self.client.download_file(BUCKET, f"{PREFIX}/{key}", str(path))
        return target

    def start(self, repository, *arguments):
        """The workflow with its results in the store."""
        options = ["--default-storage-provider", "s3", "--default-storage-prefix", f"s3://{BUCKET}/{PREFIX}"]
        options += ["--storage-s3-endpoint-url", self.endpoint]
        return Workflow(repository, *arguments, *options, **self.credentials)

    def run(self, repository, *arguments):
        with self.start(repository, *arguments) as workflow:
            run = workflow.finish()
        assert run.returncode == 0, run.stderr


@pytest.fixture
def store():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    store = Store(server.get_host_and_port()[1])
    yield store
    store.forget_everything()
    server.stop()


def test_results_in_a_bucket_are_those_on_a_disk_and_nothing_of_the_repository_goes_there(
    store, repository, finished, tmp_path
):
    store.run(repository, "results/small/summary.csv")
    assert {key.split("/")[0] for key in store.objects()} == {"results", "logs", "benchmarks"}
    assert [path.name for path in (repository / "results").rglob("*")] == ["README.md"]
    downloaded = store.download("results/small", tmp_path / "downloaded")
    assert contents(downloaded) == contents(finished / "results/small")
    assert [validate_triple(downloaded / f"{run}.json.gz") for run in ("00000", "00001")] == [[], []]


def test_a_killed_job_and_a_killed_workflow_leave_nothing_in_the_bucket_and_the_next_one_goes_on(
    store, repository, tmp_path
):
    write_experiment(repository, "small", sweep={}, dataset__limit=8, generation__max_tokens=64)
    slow_down(repository)
    arguments = ["results/small/00000.json.gz", "--nolock"]
    done = 0
    for kill in (kill_job, kill_workflow):
        with store.start(repository, *arguments) as workflow:
            done = workflow.wait_until(lambda done=done: count_batches(repository, more_than=done))
            kill(workflow)
            assert workflow.finish().returncode != 0
        assert count_batches(repository, more_than=0)
        assert store.objects("results") == []
        assert store.unfinished_uploads() == []

    store.run(repository, *arguments)
    downloaded = store.download("results/small", tmp_path / "downloaded")
    assert sorted(contents(downloaded)) == ["00000.json.gz", "00000.metadata.json", "00000.safetensors"]
    assert validate_triple(downloaded / "00000.json.gz") == []
    log = store.download("logs/generate/small", tmp_path / "logs") / "00000.log"
    assert "going on after" in log.read_text()


def count_batches(repository, more_than):
    """How many batches the journal of the generate job holds, 0 if not more than so many."""
    journals = (repository / ".snakemake/storage").rglob(".00000.json.gz.progress")
    count = sum(len(finished_batches(path)) for path in journals)
    return count if count > more_than else 0


def kill_job(workflow):
    [job] = [
        process
        for process in psutil.Process(workflow.pid).children(recursive=True)
        if process.name().startswith("python") and process.cmdline()[-1].endswith(".generate.py")
    ]
    job.send_signal(signal.SIGKILL)


def kill_workflow(workflow):
    workflow.signal(signal.SIGKILL)
