"""Files: written whole or not at all, here or on a remote store; safe names; errors that name the file."""

from lightning_saliency.files.atomic import replacing, write_atomically
from lightning_saliency.files.locations import Location, RemotePath, file_of_this_machine, location
from lightning_saliency.files.names import safe_name, safe_names
from lightning_saliency.files.own import OwnFiles
from lightning_saliency.files.reading import read_json, read_text, reading

__all__ = [
    "Location",
    "OwnFiles",
    "RemotePath",
    "file_of_this_machine",
    "location",
    "read_json",
    "read_text",
    "reading",
    "replacing",
    "safe_name",
    "safe_names",
    "write_atomically",
]
