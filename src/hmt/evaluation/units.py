"""Numbers for people."""


def byte_text(size: float) -> str:
    """A number of bytes: 512 B, 1.5 KiB, 32 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} TiB"


def count_text(number: float) -> str:
    """A count in powers of 1,024, as context lengths are given: 512, 2k, 1M."""
    for factor, suffix in ((2**20, "M"), (2**10, "k")):
        if number >= factor:
            return f"{number / factor:.3g}{suffix}"
    return f"{number:g}"


def plural(number: int, noun: str) -> str:
    """1 segment, 2 segments, 1,000 segments."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
