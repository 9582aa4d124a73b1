//! Versions of etcd with known faults in what locks rest on: leases.

/// The known fault of a version, if there is one.
pub(super) fn fault(version: &str) -> Option<&'static str> {
    let version = parsed(version)?;
    if is_below(version, [(3, 4, 31), (3, 5, 13)]) {
        return Some(
            "an old leader can revoke leases that were renewed: locks can be lost early. Use 3.4.38, 3.5.23, 3.6.5 or later",
        );
    }
    if is_below(version, [(3, 4, 38), (3, 5, 23), (3, 6, 5)]) {
        return Some("a renewal can succeed on a lease that is revoked already. Use 3.4.38, 3.5.23, 3.6.5 or later");
    }
    None
}

type EtcdVersion = (u32, u32, u32);

/// True if a version is older than the repair of its own series, or, if that was never repaired, than all repairs.
fn is_below<const N: usize>(version: EtcdVersion, repaired: [EtcdVersion; N]) -> bool {
    let (major, minor, _) = version;
    match repaired.iter().find(|repair| (repair.0, repair.1) == (major, minor)) {
        Some(&repair) => version < repair,
        None => repaired.iter().all(|&repair| version < repair),
    }
}

fn parsed(version: &str) -> Option<EtcdVersion> {
    let plain = version.split(['-', '+']).next()?;
    let mut numbers = plain.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??, numbers.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faulty_versions_are_recognised() {
        for version in ["3.3.27", "3.4.23", "3.4.30", "3.5.0", "3.5.12"] {
            assert!(fault(version).is_some_and(|fault| fault.starts_with("an old leader")), "{version}");
        }
        for version in ["3.4.31", "3.4.37", "3.5.13", "3.5.22", "3.6.0", "3.6.4", "3.6.0-rc.3"] {
            assert!(fault(version).is_some_and(|fault| fault.starts_with("a renewal")), "{version}");
        }
        for version in ["3.4.38", "3.5.23", "3.6.5", "3.7.0", "4.0.0", "not known", ""] {
            assert_eq!(fault(version), None, "{version}");
        }
    }
}
