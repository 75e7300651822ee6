//! Encodings: payloads in (JSON, CSV, bare values), rows out (NDJSON, CSV) and compressed frames. Pure: bytes and columns.
