"""Reads event files of TensorBoard back: lengths, checksums and events one after another."""

import struct
from pathlib import Path
from typing import Any

from tensorboardX.proto.event_pb2 import Event, SessionLog


def events(folder: Path) -> list[Any]:
    """Events of all files, oldest file first."""
    found = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        content, at = path.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack("<Q", content[at : at + 8])
            event = Event()
            event.ParseFromString(content[at + 12 : at + 12 + length])
            found.append(event)
            at += 12 + length + 4
    return found


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """Values by name and step, as TensorBoard shows them: without what a restart purges."""
    shown: dict[str, dict[int, float]] = {}
    for event in events(folder):
        if event.session_log.status == SessionLog.START:
            for name, values in shown.items():
                shown[name] = {s: v for s, v in values.items() if s < event.step}
        for value in event.summary.value:
            if value.HasField("simple_value"):
                shown.setdefault(value.tag, {})[event.step] = value.simple_value
    return shown


def texts(folder: Path) -> dict[str, str]:
    """The last text under each name."""
    return {
        value.tag: value.tensor.string_val[0].decode()
        for event in events(folder)
        for value in event.summary.value
        if value.tensor.string_val
    }
