//! The TOML of a cluster file, read with its lines.
