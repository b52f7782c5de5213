"""Three services by Docker's SDK for Python: built, connected, looked at, and taken away again.

Usage: sdk.py ENGINE_URL ARCHIVE_OF_BUSYBOX
"""

import io
import itertools
import json
import pathlib
import sys
import tarfile
import tempfile

import docker
from docker.types import EndpointConfig, IPAMConfig, IPAMPool, Mount

LABELS = {"made-by": "sdk"}
OURS = {"label": "made-by=sdk"}
DOCKERFILE = """\
ARG WORD=none
FROM sdk/base AS maker
ARG WORD
RUN echo $WORD >/word
FROM sdk/base
COPY --from=maker /word /www/word
COPY index.html /www/
LABEL made-by=sdk
CMD ["httpd", "-f", "-p", "80", "-h", "/www"]
"""


def tarball(files):
    """An archive in memory, from the first byte."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
    out.seek(0)
    return out


def refused(status, call, *args, **kwargs):
    """What the engine complains of, which must have this status."""
    try:
        call(*args, **kwargs)
    except docker.errors.APIError as error:
        assert error.status_code == status, error
        return error.explanation
    raise AssertionError(f"{call} was not refused")


def build(client):
    """An image from a directory, from an archive, from a Dockerfile alone."""
    with tempfile.TemporaryDirectory() as place:
        (pathlib.Path(place) / "Dockerfile").write_text(DOCKERFILE)
        (pathlib.Path(place) / "index.html").write_text("hello")
        (pathlib.Path(place) / "left-out").write_text("x")
        (pathlib.Path(place) / ".dockerignore").write_text("left-out\n")
        image, log = client.images.build(path=place, tag="sdk/web:1", buildargs={"WORD": "built"}, rm=True)
    lines = "".join(line.get("stream", "") for line in log)
    assert "Step 1/9 : ARG WORD=none\n" in lines and "Successfully tagged sdk/web:1\n" in lines, lines
    assert image.tags == ["sdk/web:1"] and image.labels == LABELS, image.attrs
    context = tarball({"Dockerfile": DOCKERFILE.encode(), "index.html": b"hello"})
    again, log = client.images.build(fileobj=context, custom_context=True, buildargs={"WORD": "built"})
    lines = "".join(line.get("stream", "") for line in log)
    assert again.id == image.id and lines.count(" ---> Using cache\n") == 6, lines
    alone, _ = client.images.build(fileobj=io.BytesIO(b"FROM sdk/base\nLABEL made-by=sdk\nENV A=b\n"), tag="sdk/db", rm=True)
    assert "A=b" in alone.attrs["Config"]["Env"]
    try:
        client.images.build(fileobj=io.BytesIO(b"FROM sdk/base\nRUN exit 9\n"), forcerm=True)
        raise AssertionError("a step that fails ends a build")
    except docker.errors.BuildError as error:
        assert "returned a non-zero code: 9" in str(error), error
    refused(400, client.images.build, fileobj=io.BytesIO(b"NOPE\n"))
    return image


def up(client):
    """Three services on two networks, with addresses, names and a volume."""
    pool = IPAMConfig(pool_configs=[IPAMPool(subnet="10.95.0.0/24", gateway="10.95.0.1")])
    back = client.networks.create("sdk-back", ipam=pool, internal=True, labels=LABELS, check_duplicate=True)
    front = client.networks.create("sdk-front", driver="bridge", labels=LABELS)
    assert "already exists" in refused(409, client.networks.create, "sdk-back")
    data = client.volumes.create("sdk-data", labels=LABELS)
    assert [volume.name for volume in client.volumes.list(filters=OURS)] == ["sdk-data"]
    db = client.containers.create(
        "sdk/db", ["httpd", "-f", "-p", "5432", "-h", "/data"], name="sdk-db", labels=LABELS, network="sdk-back",
        mounts=[Mount("/data", "sdk-data")], healthcheck={"test": ["CMD", "true"], "interval": 200_000_000})
    web = client.containers.run(
        "sdk/web:1", detach=True, name="sdk-web", labels=LABELS, network="sdk-front", ports={"80/tcp": None},
        environment={"B": "c"}, restart_policy={"Name": "on-failure", "MaximumRetryCount": 2})
    back.connect(web, aliases=["site"], ipv4_address="10.95.0.9")
    db.start()
    job = client.containers.run(
        "sdk/base", ["sh", "-c", "while sleep 0.1; do date; done"], detach=True, name="sdk-job", labels=LABELS,
        network="none", mem_limit="64m", stop_signal="KILL")
    back.reload()
    assert {one.name for one in back.containers} == {"sdk-web", "sdk-db"}, back.attrs
    web.reload()
    networks = web.attrs["NetworkSettings"]["Networks"]
    assert networks["sdk-back"]["IPAddress"] == "10.95.0.9" and "site" in networks["sdk-back"]["Aliases"], networks
    assert int(web.ports["80/tcp"][0]["HostPort"]) > 0, web.ports
    return back, front, data, {"db": db, "web": web, "job": job}


def execs(web, db):
    """Programs in containers: output, streams, a socket both ways, exit codes."""
    code, output = db.exec_run(["wget", "-qO-", "http://site/word"])
    assert (code, output) == (0, b"built\n"), output
    code, output = web.exec_run("sh -c 'echo out; echo err >&2; exit 5'", demux=True)
    assert (code, output) == (5, (b"out\n", b"err\n")), output
    code, output = web.exec_run(["sh", "-c", "echo a; echo b"], stream=True)
    assert b"".join(output) == b"a\nb\n" and code is None
    assert web.exec_run("pwd", workdir="/www").output == b"/www\n"
    assert web.exec_run("id -u", user="7").output == b"7\n"
    api = web.client.api
    made = api.exec_create(web.id, ["sh", "-c", "read line; echo got $line"], stdin=True, tty=True)["Id"]
    stream = api.exec_start(made, tty=True, socket=True)
    getattr(stream, "_sock", stream).sendall(b"word\n")
    seen = b""
    while b"got word\r\n" not in seen:
        more = stream.read(1)
        assert more, seen
        seen += more
    stream.close()
    while api.exec_inspect(made)["Running"]:
        pass
    assert api.exec_inspect(made)["ExitCode"] == 0
    assert "No such exec instance" in refused(404, api.exec_inspect, "nope")


def files(web):
    """Archives into a container and out of it."""
    assert web.put_archive("/tmp", tarball({"in/file": b"content"}).getvalue())
    bits, stat = web.get_archive("/tmp/in/file")
    assert stat["name"] == "file" and stat["size"] == 7, stat
    with tarfile.open(fileobj=io.BytesIO(b"".join(bits))) as archive:
        assert archive.extractfile("file").read() == b"content"
    refused(404, web.get_archive, "/nope")
    assert {"Path": "/tmp/in/file", "Kind": 1} in web.diff(), web.diff()


def streams(client, job):
    """Logs, attached output and figures, as they come."""
    lines = list(itertools.islice(job.logs(stream=True, follow=True), 3))
    assert len(lines) == 3 and all(line.endswith(b"\n") for line in lines), lines
    assert len(job.logs(tail=2, timestamps=True).splitlines()) == 2
    figures = list(itertools.islice(job.stats(stream=True, decode=True), 2))
    assert figures[1]["memory_stats"]["limit"] == 64 << 20, figures[1]
    assert figures[1]["read"] > figures[0]["read"] and figures[1]["name"] == "/sdk-job"
    assert job.stats(stream=False)["pids_stats"]["current"] >= 1
    assert any("sleep" in " ".join(row) or "sh" in " ".join(row) for row in job.top()["Processes"])
    attached = job.attach(stream=True, logs=False)
    assert next(iter(attached))
    job.pause()
    job.reload()
    assert job.status == "paused"
    assert "is paused" in refused(409, job.exec_run, "true")
    job.unpause()
    job.rename("sdk-jobs")
    assert client.containers.get("sdk-jobs").id == job.id
    job.update(mem_limit="32m", memswap_limit="32m")
    job.reload()
    assert job.attrs["HostConfig"]["Memory"] == 32 << 20


def copies(client, web):
    """What is made of a container: an image by commit, one by export and import, one by save and load."""
    made = web.commit("sdk/copy", "1", changes=["LABEL kept=yes"], author="sdk")
    assert made.labels == {"kept": "yes", **LABELS}, made.labels
    output = client.containers.run("sdk/copy:1", "cat /tmp/in/file", remove=True, network_mode="none")
    assert output == b"content", output
    whole = b"".join(web.export())
    told = client.api.import_image_from_data(whole, repository="sdk/whole")
    assert "sha256:" in told, told
    saved = b"".join(client.images.get("sdk/copy:1").save(named=True))
    client.images.remove("sdk/copy:1")
    assert client.images.load(saved)[0].id == made.id
    assert client.images.get("sdk/copy:1").history()[0]["Size"] > 0
    assert made.tag("sdk/other", "2") and client.images.get("sdk/other:2").id == made.id
    for name in ["sdk/copy:1", "sdk/other:2", "sdk/whole"]:
        client.images.remove(name)
    refused(404, client.images.get, "sdk/copy:1")


def down(client, networks, data, containers):
    """The end of all of it; what happened has been told."""
    begun = client.api.inspect_container(containers["db"].id)["Created"]
    events = client.events(since=begun_at(begun), filters=OURS, decode=True)
    containers["job"].kill()
    assert containers["job"].wait()["StatusCode"] == 137
    containers["web"].stop(timeout=0)
    containers["db"].restart(timeout=0)
    assert "is running" in refused(409, containers["db"].remove)
    seen = set()
    for event in events:
        seen.add((event["Type"], event["Action"].split(":")[0]))
        if ("container", "restart") in seen:
            break
    events.close()
    for wanted in ["create", "start", "exec_create", "exec_die", "die", "kill", "stop", "restart", "rename", "pause"]:
        assert ("container", wanted) in seen, seen
    assert "has active endpoints" in refused(403, networks[0].remove)
    assert "in use" in refused(409, data.remove)
    exited = [one.name for one in client.containers.list(all=True, filters={**OURS, "status": "exited"})]
    assert sorted(exited) == ["sdk-jobs", "sdk-web"], exited
    pruned = client.containers.prune(filters=OURS)
    assert len(pruned["ContainersDeleted"]) == 2, pruned
    containers["db"].remove(force=True, v=True)
    pruned = client.networks.prune(filters=OURS)
    assert sorted(pruned["NetworksDeleted"]) == ["sdk-back", "sdk-front"], pruned
    assert client.volumes.prune(filters={**OURS, "all": True})["VolumesDeleted"] == ["sdk-data"]
    client.images.remove("sdk/web:1")
    client.images.remove("sdk/db")
    assert client.images.list(filters=OURS) == []
    assert client.df()["Containers"] in ([], None), client.df()


def begun_at(text):
    """Seconds of the time at which something began."""
    import datetime
    return int(datetime.datetime.fromisoformat(text[:19] + "+00:00").timestamp())


def main(url, archive):
    client = docker.DockerClient(base_url=url, timeout=60)
    assert client.ping() and client.version()["ApiVersion"]
    for line in client.api.import_image_from_file(archive, repository="sdk/base").splitlines():
        assert "error" not in json.loads(line), line
    build(client)
    back, front, data, containers = up(client)
    execs(containers["web"], containers["db"])
    files(containers["web"])
    streams(client, containers["job"])
    copies(client, containers["web"])
    down(client, [back, front], data, containers)
    client.images.remove("sdk/base")
    print("done")


main(*sys.argv[1:])
