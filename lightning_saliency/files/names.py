"""Names of files and folders made of names that may hold anything."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable

#: The longest name that is made, in bytes; file systems allow 255, and most names get something put before or behind.
LONGEST = 72
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


def safe_names(names: Iterable[str], keep: str = "-_.") -> dict[str, str]:
    """A file's name for each name: none leaves its folder, is hidden, too long or another's.

    Letters and digits of any script stay, and the characters in ``keep``; a run of others becomes one underscore. A
    name is followed by a few letters of its hash where it would otherwise be cut (72 bytes), have no letter, be one of
    the devices of Windows (``nul``), or be another's, also where capitals and ways to write accents make the only
    difference, as they do not count in many file systems. The result does not depend on the order of the names.

    Args:
        names: Any texts.
        keep: Characters that stay as they are.

    Returns:
        Name -> file's name.

    Example:
        >>> safe_names(["grad_cam", "torchcam:GradCAM", "../../etc", "16 groups"])
        {'grad_cam': 'grad_cam', 'torchcam:GradCAM': 'torchcam_GradCAM', '../../etc': 'etc', '16 groups': '16_groups'}
        >>> safe_names(["a_b", "a/b"])
        {'a_b': 'a_b', 'a/b': 'a_b-c14cddc0'}
    """
    given = list(dict.fromkeys(names))
    found = {name: _plain(name, keep) for name in given}
    digits = 8
    while True:
        sharing: dict[str, list[str]] = defaultdict(list)
        for name, plain in found.items():
            sharing[_compared(plain)].append(name)
        clashing = [group for group in sharing.values() if len(group) > 1]
        if not clashing:
            return found
        for group in clashing:
            # The one that can be a file's name as it is keeps it.
            same = [name for name in group if name == found[name]]
            for name in group:
                if same != [name]:
                    found[name] = _with_hash(_plain(name, keep), name, digits)
        digits += 8


def safe_name(name: str, keep: str = "-_.") -> str:
    """A file's name for a name whose siblings are not known: as `safe_names`, and of no other name.

    A hash follows wherever the name had to be changed, and where it has capitals.

    Example:
        >>> safe_name("grad_cam"), safe_name("layer1.0/relu"), safe_name("ResNet-20")
        ('grad_cam', 'layer1.0_relu-faa0399f248071a5', 'ResNet-20-65ab71ec436b7a92')
    """
    plain = _plain(name, keep)
    return plain if plain == name == _compared(name) else _with_hash(plain, name, 16)


def _plain(name: str, keep: str) -> str:
    letters = [letter if _allowed(letter, keep) else "\0" for letter in unicodedata.normalize("NFC", name)]
    plain = re.sub("\0+", "_", "".join(letters))
    if plain != name:
        plain = plain.strip("_")
    plain = plain.strip(".")
    if plain != name:
        plain = plain.strip("._")
    if _DEVICES.fullmatch(plain):
        return _with_hash("", name, 8)
    if not any(letter.isalnum() for letter in plain) or len(plain.encode()) > LONGEST:
        return _with_hash(plain, name, 8)
    return plain


def _allowed(letter: str, keep: str) -> bool:
    if letter in keep:
        return True
    if not letter.isalnum():
        return False
    try:
        os.fsencode(letter)
        letter.encode()
    except UnicodeEncodeError:
        return False
    return True


def _with_hash(plain: str, name: str, digits: int) -> str:
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:digits]
    start = plain.encode()[: max(0, LONGEST - 1 - digits)].decode(errors="ignore").rstrip("._-")
    return f"{start}-{digest}" if any(letter.isalnum() for letter in start) else digest


def _compared(name: str) -> str:
    """What is equal for names that a file system may take for one."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
