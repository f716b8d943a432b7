"""The images that image benches move about: one Debian of 200 MB, in one layer and in ten, in every form.

Made once, of the host's own package sources, and kept in ``.cache/bench-images``. No network but the packages'.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
import imagefiles  # noqa: E402
import images  # noqa: E402

CACHE = ROOT / ".cache/bench-images"
PACKAGES = "python3,perl,nginx-light"
LAYERS = (1, 10)
FORMS = ("plain", "gzip", "zstd")


def _build(target: Path) -> None:
    """A Debian root file system as a plain tar."""
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    suite = release["VERSION_CODENAME"].strip('"')
    candidates = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    found = [path for path in candidates if path.suffix in (".list", ".sources") and path.exists()]
    sources = [path for path in found if suite in path.read_text()]
    if not sources or shutil.which("mmdebstrap") is None:
        raise SystemExit("the bench's image needs mmdebstrap and an apt source of this release")
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        top = Path(name)
        top.chmod(0o755)
        options = ["--variant=minbase", "--mode=root", f"--include={PACKAGES}"]
        options.append("--dpkgopt=path-exclude=/usr/share/locale/*")
        print("making a Debian image of 200 MB, once", file=sys.stderr)
        subprocess.run(["mmdebstrap", "--quiet", *options, suite, top / "root", *sources], check=True)
        for left in ("var/cache/apt", "var/lib/apt/lists"):
            shutil.rmtree(top / "root" / left)
        order = ["--numeric-owner", "--sort=name", "--exclude=./dev/*", "--format=pax"]
        subprocess.run(["tar", "-C", top / "root", *order, "-cf", top / "tar", "."], check=True)
        (top / "tar").rename(target)


def _slices(source: tarfile.TarFile, count: int) -> Iterator[bytes]:
    """The archive's members in ``count`` layers of about the same size, each with the directories above them."""
    members = source.getmembers()
    directories = {member.name: member for member in members if member.isdir()}
    share = sum(member.size for member in members) / count
    position = {member.name: at for at, member in enumerate(members)}
    at = 0
    for number in range(count):
        raw = io.BytesIO()
        size, first = 0, at
        with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
            written: set[str] = set()
            while at < len(members) and (size < share or number == count - 1):
                member = members[at]
                for parent in reversed(PurePosixPath(member.name).parents):
                    if str(parent) in directories and str(parent) not in written:
                        written.add(str(parent))
                        tar.addfile(directories[str(parent)])
                if member.name not in written:
                    content = source.extractfile(member) if member.isreg() or member.islnk() else None
                    if member.islnk() and position[member.linkname] < first:  # another layer has it: a copy
                        member.type, member.size = tarfile.REGTYPE, source.getmember(member.linkname).size
                    tar.addfile(member, content if member.isreg() else None)
                written.add(member.name)
                size += member.size
                at += 1
        yield raw.getvalue()


def rootfs() -> Path:
    """The root file system as a plain tar archive."""
    CACHE.mkdir(parents=True, exist_ok=True)
    target = CACHE / "debian.tar"
    if not target.exists():
        _build(target)
    return target


def archive(layers: int, form: str) -> Path:
    """The image in ``layers`` layers of ``form``, as ``docker load`` takes it: named ``bench/FORM:LAYERS``.

    ``plain`` is what ``docker save`` writes; ``gzip`` and ``zstd``: OCI layouts with a ``manifest.json`` beside.
    """
    target = CACHE / f"{form}-{layers}.tar"
    if not target.exists():
        with tarfile.open(rootfs()) as source:
            made = tuple(images.Layer(tar, form) for tar in _slices(source, layers))
        image = images.image(*made, cmd=["/bin/bash"])
        name = {f"localhost/bench/{form}:{layers}": image}
        partial = target.with_suffix(".partial")
        imagefiles.write_docker_archive(partial, name, form="flat" if form == "plain" else "blobs")
        partial.rename(target)
    return target


def large(directory: Path, size: int = 2 * 10**9) -> Path:
    """An image of ``size`` bytes in files of 1 MB that don't compress, as ``docker save`` would write it."""
    target = directory / "large.tar"
    layer = directory / "large-layer.tar"
    with tarfile.open(layer, "w") as tar:
        for number in range(size // 10**6):
            info = tarfile.TarInfo(f"data/{number:05d}")
            info.size = 10**6
            tar.addfile(info, io.BytesIO(os.urandom(10**6)))
    diff_id = "sha256:" + subprocess.check_output(["sha256sum", layer], text=True).split()[0]
    config = images.dumps(
        {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [diff_id]}}
    )
    config_name = f"{images.sha256(config)[7:]}.json"
    (directory / config_name).write_bytes(config)
    manifest = [{"Config": config_name, "RepoTags": ["localhost/bench/large:1"], "Layers": [layer.name]}]
    (directory / "manifest.json").write_bytes(images.dumps(manifest))
    parts = [layer.name, config_name, "manifest.json"]
    subprocess.run(["tar", "-C", directory, "-cf", target, *parts], check=True)
    for name in parts:
        (directory / name).unlink()
    return target


def layers_of(path: Path, directory: Path) -> list[Path]:
    """The layers of an archive that ``archive`` made, as files in ``directory``, the lowest first."""
    import json

    with tarfile.open(path) as tar:
        manifest = tar.extractfile("manifest.json")
        assert manifest is not None
        names = json.load(manifest)[0]["Layers"]
        for name in names:
            content = tar.extractfile(name)
            assert content is not None
            with (directory / PurePosixPath(name).name).open("wb") as out:
                shutil.copyfileobj(content, out, 1 << 20)
    return [directory / PurePosixPath(name).name for name in names]
