//! What the servers of a cluster have in common.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use super::address::Endpoint;
use super::failure::{FailureScope, ServerFailure};
use super::login::LoggedIn;
use super::versions;
use crate::error::Failure;
use crate::observe::logs::target;

/// What this client has learnt about the cluster from its servers.
#[derive(Default)]
pub(super) struct Cluster {
    facts: Mutex<ClusterFacts>,
}

#[derive(Default)]
struct ClusterFacts {
    id: Option<u64>,
    /// The known faults of each server's version, by its address.
    warnings: BTreeMap<String, String>,
}

impl Cluster {
    /// Checks a new connection. Fails if the server belongs to another cluster than the servers before: locks in two clusters do not
    /// exclude each other, and their tokens cannot be compared.
    pub(super) fn check(&self, endpoint: &Endpoint, logged_in: &LoggedIn) -> Result<(), ServerFailure> {
        let mut facts = self.facts.lock();
        let id = *facts.id.get_or_insert(logged_in.cluster);
        if id != logged_in.cluster {
            let message = format!("it belongs to another cluster ({:x}) than the servers before ({id:x})", logged_in.cluster);
            return Err(ServerFailure::new(endpoint, FailureScope::Server, Failure::Refused, &message));
        }
        facts.note_version(endpoint, &logged_in.version);
        Ok(())
    }

    pub(super) fn id(&self) -> Option<u64> {
        self.facts.lock().id
    }

    pub(super) fn warnings(&self) -> Vec<String> {
        self.facts.lock().warnings.values().cloned().collect()
    }
}

impl ClusterFacts {
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
