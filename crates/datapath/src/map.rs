//! Reading and writing the programs' maps.

use std::time::Duration;

use libbpf_rs::{MapCore, MapFlags};

use crate::error::DatapathError;
use crate::shared::{Shared, as_bytes, from_bytes};

pub(crate) fn nanoseconds(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

pub(crate) fn failed(table: &'static str) -> impl Fn(libbpf_rs::Error) -> DatapathError {
    move |source| DatapathError::Table { table, source }
}

/// Writes an entry of a map; `table` names it in errors.
///
/// # Errors
/// When the map is full, or memory is.
pub fn put<K: Shared, V: Shared>(
    map: &impl MapCore,
    table: &'static str,
    key: &K,
    value: &V,
) -> Result<(), DatapathError> {
    map.update(as_bytes(key), as_bytes(value), MapFlags::ANY).map_err(failed(table))
}

/// Reads an entry of a map; `None` when there is none.
///
/// # Errors
/// When the kernel refuses the call.
pub fn get<K: Shared, V: Shared>(
    map: &impl MapCore,
    table: &'static str,
    key: &K,
) -> Result<Option<V>, DatapathError> {
    let bytes = map.lookup(as_bytes(key), MapFlags::ANY).map_err(failed(table))?;
    Ok(bytes.and_then(|b| from_bytes(&b)))
}

pub(crate) fn remove<K: Shared>(
    map: &impl MapCore,
    table: &'static str,
    key: &K,
) -> Result<(), DatapathError> {
    remove_bytes(map, table, as_bytes(key))
}

pub(crate) fn remove_bytes(map: &impl MapCore, table: &'static str, key: &[u8]) -> Result<(), DatapathError> {
    match map.delete(key) {
        Err(e) if e.kind() != libbpf_rs::ErrorKind::NotFound => Err(failed(table)(e)),
        _ => Ok(()),
    }
}

/// Removes the entries whose keys are so. Slow: reads all keys.
pub(crate) fn forget<K: Shared>(
    map: &impl MapCore,
    table: &'static str,
    is_so: impl Fn(K) -> bool,
) -> Result<(), DatapathError> {
    let keys: Vec<_> = map.keys().filter(|key| from_bytes(key).is_some_and(&is_so)).collect();
    keys.iter().try_for_each(|key| remove_bytes(map, table, key))
}

pub(crate) fn sum_over_cpus(
    map: &impl MapCore,
    table: &'static str,
    index: u32,
) -> Result<u64, DatapathError> {
    sum_parts(map, table, index, |value: &u64| *value)
}

/// The sum over CPUs of a part of their values.
pub(crate) fn sum_parts<V: Shared>(
    map: &impl MapCore,
    table: &'static str,
    index: u32,
    part: impl Fn(&V) -> u64,
) -> Result<u64, DatapathError> {
    let per_cpu = map.lookup_percpu(as_bytes(&index), MapFlags::ANY).map_err(failed(table))?;
    Ok(per_cpu.unwrap_or_default().iter().filter_map(|b| from_bytes::<V>(b)).map(|v| part(&v)).sum())
}
