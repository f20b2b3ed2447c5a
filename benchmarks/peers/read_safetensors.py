"""Reads a safetensors file with numpy: 8 bytes of header length, a JSON header, the tensors."""
import json
from pathlib import Path

import numpy as np

DTYPES = {"F64": "<f8", "F32": "<f4", "I64": "<i8", "I32": "<i4"}


def read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors and the metadata."""
    content = Path(path).read_bytes()
    data = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:data])
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, t in header.items():
        begin, end = t["data_offsets"]
        values = np.frombuffer(content[data + begin : data + end], DTYPES[t["dtype"]])
        tensors[name] = values.reshape(t["shape"]).copy()  # a copy is aligned and may be written
    return tensors, metadata
