//! The check that all durations share.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::unit::{LONGEST, Unit};

pub(super) fn check_range(field: &str, value: Duration, least: Duration, unit: Unit) -> Result<()> {
    if value >= least && value <= LONGEST {
        return Ok(());
    }
    Err(Error::invalid(field, unit.text(value), format!("{} to {}", unit.text(least), unit.text(LONGEST))))
}
