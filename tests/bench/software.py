#!/usr/bin/env python3
"""Makes the image that `pull` measures with: 436 MB in 40,000 files, once as one gzip layer and once as
eight, in an OCI layout. The same bytes each time: everything comes from a seed.

Usage: software.py FOLDER     makes FOLDER/layout (tags one and eight), FOLDER/{one,eight}.list, FOLDER/stamp

Sizes are spread as those of installed software are (log-normal: half of the files below 2.5 KB, a few of
several MB), names are as long, and the content compresses about 2.8 times, as text and programs do.
"""

import hashlib
import io
import json
import math
import os
import platform
import random
import shutil
import subprocess
import sys
import tarfile

FILES = 40_000
BYTES = 436_000_000
LAYERS = 8
POOL = 24 << 20


def digest_of(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def pools(rng):
    """What files are cut from: prose and sources, machine code, and what is compressed already. Much longer
    than gzip's window, so that two cuts of the same place are not noticed."""
    words = ["".join(rng.choices("etaoinshrdlucmfwypvbgkqjxz", [12, 9, 8, 8, 7, 7, 6, 6, 6, 4, 4, 3, 3, 2, 2, 2, 2, 2,
             1, 1, 1, 1, .3, .2, .2, .1], k=rng.randint(2, 11))) for _ in range(9000)]
    words += ["(", ");\n", " = ", "{\n    ", "}\n\n", "return ", ", ", ".\n", "->", "// ", "self."] * 3
    weights = [1 / (rank + 2) ** 1.25 for rank in range(len(words))]
    rng.shuffle(words)
    text = " ".join(rng.choices(words, weights, k=POOL // 6)).encode()[:POOL]
    opcodes = [rng.randbytes(rng.randint(1, 3)) for _ in range(700)]
    weights = [1 / (rank + 2) ** 1.3 for rank in range(len(opcodes))]
    parts = []
    for opcode in rng.choices(opcodes, weights, k=POOL // 5):
        parts.append(opcode)
        parts.append(bytes((rng.getrandbits(8),)) if rng.random() < .25 else b"\0\0\0")
    code = b"".join(parts)[:POOL]
    return text, code, rng.randbytes(POOL // 4)


def sizes(rng):
    drawn = [min(math.exp(rng.gauss(7.8, 1.75)), 24e6) for _ in range(FILES)]
    scale = BYTES / sum(drawn)
    return [int(size * scale) for size in drawn]


def tree(rng):
    """Folders, four deep or so, ten files in each: (path, size, kind) of every file, folder by folder."""
    name = lambda: "".join(rng.choices("abcdefghijklmnopqrstuvwxyz-_", k=rng.randint(3, 14)))
    folders, files = ["usr"], []
    left = iter(sizes(rng))
    while len(files) < FILES:
        parent = rng.choice(folders[-400:] if rng.random() < .8 else folders)
        if parent.count("/") > 8:
            continue
        folder = f"{parent}/{name()}{len(folders)}"
        folders.append(folder)
        for number in range(min(rng.randint(1, 19), FILES - len(files))):
            kind = rng.choices("tcz", [65, 30, 5])[0]
            files.append((f"{folder}/{name()}{number}{rng.choice(['', '.js', '.so', '.py', '.h', '.md'])}", next(left), kind))
    return folders, files


def add(tar, path, kind=tarfile.REGTYPE, mode=0o644, content=b"", link=""):
    info = tarfile.TarInfo(path)
    info.type, info.mode, info.linkname, info.size = kind, mode, link, len(content)
    info.mtime = 1_600_000_000 + spread(path)
    tar.addfile(info, io.BytesIO(content))


def spread(path):
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:3], "big")


def layers(folder):
    """Writes the archives of all layers beside each other; returns their paths: [whole], [eight parts]."""
    rng = random.Random(20240229)
    text, code, noise = pools(rng)
    folders, files = tree(rng)
    paths = [os.path.join(folder, "one.tar")] + [os.path.join(folder, f"part{n}.tar") for n in range(LAYERS)]
    tars = [tarfile.open(path, "w", format=tarfile.GNU_FORMAT) for path in paths]
    part_of = {}
    share, sofar, part = BYTES / LAYERS, 0, 1
    for path, size, _ in files:
        part_of.setdefault(os.path.dirname(path), part)
        sofar += size
        if sofar > share * part and part < LAYERS:
            part += 1
    for place in (tars[0], tars[1]):
        for name in ("bin", "dev", "etc", "proc", "sys", "tmp"):
            add(place, name, tarfile.DIRTYPE, 0o755)
        with open("/bin/busybox", "rb") as program:
            add(place, "bin/busybox", mode=0o755, content=program.read())
        add(place, "bin/true", tarfile.SYMTYPE, 0o777, link="busybox")
    named = [set() for _ in tars]

    def parents(number, path):
        # Every archive names the folders that its files are in, as a packer of a real tree does.
        if path and path not in named[number]:
            parents(number, os.path.dirname(path))
            named[number].add(path)
            add(tars[number], path, tarfile.DIRTYPE, 0o755)

    for at, (path, size, kind) in enumerate(files):
        source = {"t": text, "c": code, "z": noise}[kind]
        content = bytearray()
        while len(content) < size:
            begin = rng.randrange(len(source) - 65536)
            content += source[begin:begin + min(size - len(content), 65536)]
        home = os.path.dirname(path)
        for number in (0, part_of[home]):
            parents(number, home)
            add(tars[number], path, mode=0o755 if kind == "c" else 0o644, content=bytes(content))
            if at % 40 == 0:
                add(tars[number], path + ".link", tarfile.SYMTYPE, 0o777, link=os.path.basename(path))
            if at % 160 == 0:
                add(tars[number], path + ".hard", tarfile.LNKTYPE, link=path)
    for tar in tars:
        tar.close()
    return paths[:1], paths[1:]


def image(folder, layout, name, tars):
    blobs = os.path.join(layout, "blobs/sha256")
    os.makedirs(blobs, exist_ok=True)
    diff_ids, descriptors = [], []
    for tar in tars:
        diff_ids.append("sha256:" + digest_of(tar))
        with open(tar + ".gz", "wb") as packed:
            subprocess.run(["gzip", "-6nc", tar], stdout=packed, check=True)
        digest, size = digest_of(tar + ".gz"), os.path.getsize(tar + ".gz")
        os.rename(tar + ".gz", os.path.join(blobs, digest))
        os.unlink(tar)
        descriptors.append({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                            "digest": f"sha256:{digest}", "size": size})

    def blob(value):
        content = json.dumps(value).encode()
        digest = hashlib.sha256(content).hexdigest()
        with open(os.path.join(blobs, digest), "wb") as file:
            file.write(content)
        return {"digest": f"sha256:{digest}", "size": len(content)}

    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    config = blob({"architecture": machine, "os": "linux", "config": {"Cmd": ["true"], "Env": ["PATH=/bin"]},
                   "rootfs": {"type": "layers", "diff_ids": diff_ids}})
    kind = "application/vnd.oci.image"
    manifest = blob({"schemaVersion": 2, "mediaType": f"{kind}.manifest.v1+json",
                     "config": {"mediaType": f"{kind}.config.v1+json", **config}, "layers": descriptors})
    with open(os.path.join(folder, f"{name}.list"), "w") as file:
        file.writelines(d["digest"].removeprefix("sha256:") + "\n" for d in descriptors)
    return {"mediaType": f"{kind}.manifest.v1+json", **manifest, "annotations": {"org.opencontainers.image.ref.name": name}}


def main():
    folder = sys.argv[1]
    stamp = digest_of(__file__) + " " + digest_of("/bin/busybox")
    stamp_file = os.path.join(folder, "stamp")
    try:
        with open(stamp_file) as file:
            if file.read() == stamp:
                return
    except FileNotFoundError:
        pass
    shutil.rmtree(folder, ignore_errors=True)
    layout = os.path.join(folder, "layout")
    os.makedirs(layout)
    one, eight = layers(folder)
    manifests = [image(folder, layout, "one", one), image(folder, layout, "eight", eight)]
    with open(os.path.join(layout, "oci-layout"), "w") as file:
        file.write('{"imageLayoutVersion":"1.0.0"}')
    with open(os.path.join(layout, "index.json"), "w") as file:
        json.dump({"schemaVersion": 2, "manifests": manifests}, file)
    with open(stamp_file, "w") as file:
        file.write(stamp)


main()
