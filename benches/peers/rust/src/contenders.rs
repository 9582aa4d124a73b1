//! Who takes part, a file each.

pub mod dlock;
pub mod fs4;
pub mod raw;
pub mod raw_etcd;
pub mod raw_local;
pub mod raw_scripts;
pub mod rslock;

mod redis_line;
