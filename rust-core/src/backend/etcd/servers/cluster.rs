//! What is known of the cluster as a whole.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use super::address::Endpoint;
use super::failure::{Failed, Scope};
use super::link::Link;
use super::versions;
use crate::error::Failure;
use crate::observe::logs::target;

/// Filled as servers are met.
#[derive(Default)]
pub(super) struct Cluster {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    id: Option<u64>,
    /// What is wrong with each server's version, by its address.
    warnings: BTreeMap<String, String>,
}

impl Cluster {
    /// Looks at a new connection. Fails when it leads to another cluster than those before: two clusters do not exclude each other, and
    /// their tokens cannot be compared.
    pub(super) fn check(&self, endpoint: &Endpoint, link: &Link) -> Result<(), Failed> {
        let mut known = self.known.lock();
        let id = *known.id.get_or_insert(link.cluster);
        if id != link.cluster {
            let told = format!("it is of another cluster ({:x}) than the servers before ({id:x})", link.cluster);
            return Err(Failed::new(endpoint, Scope::Server, Failure::Refused, &told));
        }
        known.note_version(endpoint, &link.version);
        Ok(())
    }

    pub(super) fn id(&self) -> Option<u64> {
        self.known.lock().id
    }

    pub(super) fn warnings(&self) -> Vec<String> {
        self.known.lock().warnings.values().cloned().collect()
    }
}

impl Known {
    fn note_version(&mut self, endpoint: &Endpoint, version: &str) {
        let server = endpoint.to_string();
        let Some(fault) = versions::fault(version) else {
            self.warnings.remove(&server);
            return;
        };
        let warning = format!("{server} runs etcd {version}, in which {fault}");
        if self.warnings.get(&server) != Some(&warning) {
            tracing::warn!(target: target::ETCD_CLUSTER, %server, %version, "etcd {version} has a known fault: {fault}");
            self.warnings.insert(server, warning);
        }
    }
}
