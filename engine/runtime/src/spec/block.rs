//! Shares and limits of block devices.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use nix::sys::stat::{major, minor};
use oci_spec::OciSpecError;
use oci_spec::runtime as oci;

use super::super::host::Limit;
use super::super::{Host, RuntimeError};
use super::Resources;

/// A device by its numbers.
type Numbers = (i64, i64);

/// The object of block devices, without what the host's cgroups lack.
pub(super) fn of(
    wanted: &Resources,
    host: &Host,
    warnings: &mut Vec<String>,
) -> Result<Option<oci::LinuxBlockIo>, RuntimeError> {
    let mut block = oci::LinuxBlockIo::default();
    let mut has = |limit: Limit, what: &str, discarded: &str| {
        let has = host.cgroups.has(limit);
        if !has {
            warnings.push(format!(
                "Your kernel does not support {what} or the cgroup is not mounted. \
                 {discarded} discarded."
            ));
        }
        has
    };
    if wanted.block_weight > 0 && has(Limit::BlockWeight, "Block I/O weight", "Weight") {
        block.set_weight(Some(wanted.block_weight));
    }
    let weights = each(&wanted.block_weights, |(major, minor), weight| {
        let device = oci::LinuxWeightDeviceBuilder::default().major(major).minor(minor);
        device.weight(weight).build()
    })?;
    if weights.is_some()
        && has(Limit::BlockWeightOfDevice, "Block I/O weight_device", "Weight-device")
    {
        block.set_weight_device(weights);
    }
    let mut rates = |rates: &[(String, u64)], what: &str, discarded: &str| {
        let rates = each(rates, throttle)?;
        let kept = rates.is_none() || has(Limit::BlockRate, what, discarded);
        Ok(rates.filter(|_| kept))
    };
    block
        .set_throttle_read_bps_device(rates(
            &wanted.block_read_bytes,
            "BPS Block I/O read limit",
            "Block I/O BPS read limit",
        )?)
        .set_throttle_write_bps_device(rates(
            &wanted.block_write_bytes,
            "BPS Block I/O write limit",
            "Block I/O BPS write limit",
        )?)
        .set_throttle_read_iops_device(rates(
            &wanted.block_reads,
            "IOPS Block read limit",
            "Block I/O IOPS read limit",
        )?)
        .set_throttle_write_iops_device(rates(
            &wanted.block_writes,
            "IOPS Block write limit",
            "Block I/O IOPS write limit",
        )?);
    Ok((block != oci::LinuxBlockIo::default()).then_some(block))
}

/// One entry for each device; nothing for none.
fn each<T: Copy, U>(
    wanted: &[(String, T)],
    entry: impl Fn(Numbers, T) -> Result<U, OciSpecError>,
) -> Result<Option<Vec<U>>, RuntimeError> {
    let entry = |(path, value): &(String, T)| {
        let invalid = |error: OciSpecError| RuntimeError::Invalid(error.to_string());
        entry(numbers(path)?, *value).map_err(invalid)
    };
    let entries = wanted.iter().map(entry).collect::<Result<Vec<_>, RuntimeError>>()?;
    Ok((!entries.is_empty()).then_some(entries))
}

fn throttle((major, minor): Numbers, rate: u64) -> Result<oci::LinuxThrottleDevice, OciSpecError> {
    oci::LinuxThrottleDeviceBuilder::default().major(major).minor(minor).rate(rate).build()
}

/// The numbers of a disk. The kernel limits whole disks only.
fn numbers(path: &str) -> Result<Numbers, RuntimeError> {
    let refuse = |why: &str| RuntimeError::Invalid(format!("cannot limit device {path:?}: {why}"));
    let found = std::fs::metadata(path).map_err(|_| refuse("no such file or directory"))?;
    if !found.file_type().is_block_device() {
        return Err(refuse("not a block device"));
    }
    let (major, minor) = (major(found.rdev()), minor(found.rdev()));
    if Path::new(&format!("/sys/dev/block/{major}:{minor}/partition")).exists() {
        return Err(refuse("a partition, name its disk"));
    }
    let number = |number: u64| i64::try_from(number).map_err(|_| refuse("no such device"));
    Ok((number(major)?, number(minor)?))
}
