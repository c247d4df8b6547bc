"""Ways in which a file goes bad: its bytes and a random generator in, other bytes out.

``BLIND`` know nothing of what they damage: a bad disk, a broken download. ``numbers`` knows the format: it writes a
number that lies, with the checksums that the format asks for, so that it gets past them.
"""

import io
import re
import struct
import zipfile
import zlib

import h5py
import numpy as np

EXTREMES = (0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**48, 2**62, 2**63 - 1, 2**64 - 1)
WORDS = (
    "0", "-1", "1e-320", "1e300", "-1e308", "1e999", "nan", "-inf", "9" * 30, "9" * 5000, "0x10", "1_000", "１２",
    "1e5", "65536", "word", "-", "",
)  # fmt: skip
TEXTS = (
    b"<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head></html>\n",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n",
    b"nan nan nan nan\n" * 4,
    b"1 2 3 4\n" * 5000,
    b"[" * 100_000,
    b"9" * 100_000,
    b"\xff\xfe\x00\x80" * 50,
    "Räume, グリッド\u2028\u0085 \x00\x1b[31m".encode(),
    b"{}",
    b"null",
    b"../../etc/passwd\n",
)


def flip(data, rng):
    """One bit, or a few, or many."""
    changed = bytearray(data)
    for at in rng.integers(0, max(len(data), 1), rng.choice([1, 3, 30])) if data else ():
        changed[at] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def cut(data, rng):
    """The end is missing: much of it, or little."""
    missing = rng.integers(1, len(data) + 1) if rng.random() < 0.5 else min(rng.integers(1, 65), len(data))
    return data[: len(data) - int(missing)]


def empty(data, rng):
    return b""


def zeros(data, rng):
    """A hole, as a download leaves that reserved its space."""
    begin, end = sorted(rng.integers(0, len(data) + 1, 2))
    return data[:begin] + bytes(int(end - begin)) + data[end:]


def shift(data, rng):
    """Bytes come in or get lost, so that all that follows is elsewhere."""
    at, size = int(rng.integers(0, len(data) + 1)), int(rng.choice([1, 7, 512]))
    return data[:at] + (rng.bytes(size) + data[at:] if rng.random() < 0.5 else data[at + size :])


def text(data, rng):
    """Something else is written over it, or stands in its place."""
    words = TEXTS[rng.integers(len(TEXTS))]
    if rng.random() < 0.5:
        return words
    at = int(rng.integers(0, len(data) + 1))
    return data[:at] + words + data[at + len(words) :]


BLIND = {"flip": flip, "cut": cut, "empty": empty, "zeros": zeros, "shift": shift, "text": text}


def numbers(data, rng, suffix):
    """A number that lies, in a file that is whole otherwise; the suffix tells the format."""
    return _NUMBERS.get(suffix, flip)(data, rng) if data else data


def _patch(data, at, new):
    return data[:at] + new + data[at + len(new) :]


def _extreme(rng, width):
    return (EXTREMES[rng.integers(len(EXTREMES))] % (1 << (8 * width))).to_bytes(width, "little")


def _words(data, rng):
    """Text and JSON: one number becomes another."""
    found = list(re.finditer(rb"-?[0-9][0-9.eE+-]*", data))
    if not found:
        return data
    match = found[rng.integers(len(found))]
    return data[: match.start()] + WORDS[rng.integers(len(WORDS))].encode() + data[match.end() :]


def _png(data, rng):
    """The header says another size, depth or kind; its checksum is right."""
    fields = list(struct.unpack(">II5B", data[16:29]))
    which = int(rng.integers(len(fields)))
    if which < 2:
        sides = ([0, 1, side + 1, 3 * side, 8000, 60_000, 2**31 - 1] for side in fields[:2])
        fields[:2] = [int(rng.choice(side)) for side in sides]
    else:
        fields[which] = int(rng.choice([0, 1, 2, 3, 4, 6, 8, 16]))
    header = b"IHDR" + struct.pack(">II5B", *fields)
    return _patch(data, 12, header + struct.pack(">I", zlib.crc32(header)))


def _jpeg(data, rng):
    """The frame's header says another size, precision or number of components."""
    at = next((m.start() for m in re.finditer(rb"\xff[\xc0-\xc2]\x00", data)), 0)
    if rng.random() < 0.7:
        sides = [int(rng.choice([0, 1, 8, 4000, 8000, 30_000, 65_500, 65_535])) for _ in range(2)]
        return _patch(data, at + 5, struct.pack(">HH", *sides))
    return _patch(data, at + (4 if rng.random() < 0.5 else 9), bytes([int(rng.choice([0, 1, 2, 4, 12, 255]))]))


def _other_array(array, rng):
    """Another array in its place: of another shape or kind, or with numbers that no reader expects."""
    kinds = [
        lambda: array[: len(array) // 2],
        lambda: array[:0],
        lambda: array.reshape(-1),
        lambda: array[..., None],
        lambda: np.array(3.5),
        lambda: array.astype("U12"),
        lambda: array.astype(np.complex64),
        lambda: np.zeros(array.shape, [("a", "<f4"), ("b", "<i8")]),
        lambda: array.astype(np.float64) * np.nan,
        lambda: array.astype(np.float64) + 1e300,
        lambda: np.full(array.shape, -(2**62)),
        lambda: np.full(array.shape, 255, np.uint8),
    ]
    with np.errstate(all="ignore"):
        return kinds[rng.integers(len(kinds))]()


def _meta(text_of, rng):
    return (
        '{"schema_version": 1}', '{"schema_version": 99}', "[]", "7", '"x"', "null", "{", "", "[" * 100_000,
        '{"schema_version": 1, "model": 3}', '{"schema_version": 1, "model": null}', text_of + " ",
    )[rng.integers(12)]  # fmt: skip


def _member(array, rng):
    """A member of an npz whose header lies about what follows."""
    file = io.BytesIO()
    np.lib.format.write_array(file, array)
    member = file.getvalue()
    before = str(array.shape).encode()
    huge = (b"(1000000000000,)", b"(3000000000, 192)", b"(-1, 3)", b"(" + b"9" * 40 + b",)", b"(2,) * 9", b"(2**62, 4)")
    after = huge[rng.integers(len(huge))]
    length = struct.unpack_from("<H", member, 8)[0]
    header = member[10 : 10 + length].rstrip().replace(before, after).ljust(length - 1) + b"\n"
    return member[:8] + struct.pack("<H", len(header)) + header + member[10 + length :]


def _npz(data, rng):
    """One of its arrays is another, or lies; its checksums are right."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    if rng.random() < 0.2:  # the directory's own numbers; these checksums do not cover
        at = data.rindex(b"PK\x01\x02") + int(rng.choice([8, 10, 16, 20, 24, 28, 42]))
        return _patch(data, at, _extreme(rng, int(rng.choice([2, 4]))))
    name = list(members)[rng.integers(len(members))]
    array = np.load(io.BytesIO(members[name]))
    kind = rng.integers(3)
    if array.dtype.kind == "U":
        array = np.array(_meta(str(array), rng))
        kind = 0
    if kind == 2:
        del members[name]
    else:
        file = io.BytesIO()
        np.save(file, _other_array(array, rng) if array.dtype.kind != "U" else array)
        members[name] = file.getvalue() if kind == 0 else _member(array, rng)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for key, member in members.items():
            archive.writestr(key, member)
    return out.getvalue()


def _h5(data, rng):
    """One of its datasets is another, or a group, or claims more than any disk holds; or the bytes of a header lie."""
    if rng.random() < 0.4:
        at = int(rng.integers(0, min(len(data), 6000) // 8)) * 8
        return _patch(data, at, _extreme(rng, int(rng.choice([2, 4, 8]))))
    file = io.BytesIO(data)
    with h5py.File(file, "r+") as h5:
        groups = [h5[name] for name in h5 if isinstance(h5[name], h5py.Group)]  # of a scene's frames
        node = groups[rng.integers(len(groups))] if groups else h5
        if rng.random() < 0.2:
            others = (3, np.zeros(4), h5py.Empty("f"), _meta(node.attrs["meta"].decode(), rng))
            node.attrs["meta"] = others[rng.integers(len(others))]
        else:
            name = list(node)[rng.integers(len(node))]
            array = node[name][()]
            del node[name]
            kind = rng.integers(5)
            if kind == 0:
                node.create_group(name)
            elif kind == 1:
                node.create_dataset(name, (10**12, 192), "f4", chunks=(64, 64))
            elif kind == 2:
                node[name] = h5py.SoftLink("/nowhere")
            else:
                array = _other_array(array, rng)
                node[name] = array.astype("S12") if array.dtype.kind == "U" else array
    return file.getvalue()


def _safetensors(data, rng):
    """The header lies, or a weight is not finite."""
    length = struct.unpack_from("<Q", data)[0]
    kind = rng.integers(3)
    if kind == 0:
        return _patch(data, 0, _extreme(rng, 8))
    if kind == 1:
        return _patch(data, 8 + length + 4 * int(rng.integers((len(data) - 8 - length) // 4)), b"\x00\x00\xc0\x7f")
    header = _words(data[8 : 8 + length], rng)
    return struct.pack("<Q", len(header)) + header + data[8 + length :]


def _ply(data, rng):
    """The header lies, or a coordinate is no number."""
    end = data.index(b"end_header") + 11
    if rng.random() < 0.3:
        return _patch(data, end + int(rng.integers(0, max(len(data) - end - 8, 1))), b"\x00\x00\xc0\x7f")
    if rng.random() < 0.5:
        return _words(data[:end], rng) + data[end:]
    swaps = (
        (b"property float x", b"property list uchar float x"), (b"float", b"double"), (b"uchar", b"colour"),
        (b"binary_little_endian", b"ascii"), (b"binary_little_endian", b"binary_big_endian"), (b" x\n", b" z\n"),
        (b"element vertex", b"element face"), (b"end_header", b"end_headex"), (b"property", b"element"),
        (b"element face", b"element vertex"), (b"uchar int", b"float int"), (b"property float z\n", b""),
    )  # fmt: skip
    before, after = swaps[rng.integers(len(swaps))]
    return data[:end].replace(before, after) + data[end:]


def _sens(data, rng):
    """A field of the header or of a frame's fixed part: counts, sizes, codes, matrices."""
    name = struct.unpack_from("<Q", data, 4)[0]
    header = 12 + name + 256
    fixed = header + 36
    places = [(0, 4), (4, 8), *((header + 4 * i, 4) for i in range(7)), (header + 28, 8)]
    places += [(fixed + 64 + 8 * i, 8) for i in range(4)] + [(12 + name + 4 * int(rng.integers(64)), 4)]
    places += [(fixed + 4 * int(rng.integers(16)), 4)]
    at, width = places[rng.integers(len(places))]
    if rng.random() < 0.3:
        value = rng.choice([np.nan, np.inf, 1e30, -1.0, 1e-40])
        return _patch(data, at, struct.pack("<d" if width == 8 else "<f", value))
    return _patch(data, at, _extreme(rng, width))


def _lmdb(data, rng):
    """A number of one of the pages that lead to the values; LMDB has no checksums."""
    pages = [at for at in range(0, len(data), 4096) if at < 8192 or data[at + 10] & 0x03]
    at = pages[rng.integers(len(pages))]
    at += 2 * int(rng.integers(0, 80)) if rng.random() < 0.7 else 2 * int(rng.integers(0, 2048))
    return _patch(data, at, _extreme(rng, int(rng.choice([2, 4, 8]))))


def _bin(data, rng):
    width = 8 if len(data) % 24 else 4
    values = [struct.pack("<f", v) for v in (np.nan, np.inf, -1e38, 1e38, 256, -1)] if width == 4 else []
    values.append(_extreme(rng, width))
    return _patch(data, width * int(rng.integers(len(data) // width)), values[rng.integers(len(values))])


_NUMBERS = {
    ".png": _png, ".jpg": _jpeg, ".npz": _npz, ".h5": _h5, ".safetensors": _safetensors, ".ply": _ply, ".sens": _sens,
    ".mdb": _lmdb, ".bin": _bin, ".txt": _words, ".json": _words, ".jsonl": _words, ".yaml": _words, ".log": _words,
    ".param": _words,
}  # fmt: skip
