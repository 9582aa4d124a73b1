//! Three servers of etcd that tests kill, pause and start again.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{sleep, timeout};

use super::server::{EtcdServer, Options, Status};
use crate::support::starting::{START_ATTEMPTS, START_TIMEOUT};

/// Three members. They are named by their index.
pub struct EtcdCluster {
    pub members: Vec<EtcdServer>,
    ids: Vec<u64>,
}

impl EtcdCluster {
    pub async fn start() -> Self {
        Self::start_with(Options::default()).await
    }

    /// One with other options, or just another [`Version`].
    pub async fn start_with(options: impl Into<Options>) -> Self {
        let options = options.into();
        for _ in 0..START_ATTEMPTS {
            let mut members: Vec<_> = (0..3).map(|index| EtcdServer::new(&format!("member-{index}"), &options)).collect();
            let cluster = members.iter().map(EtcdServer::as_peer).collect::<Vec<_>>().join(",");
            for member in &mut members {
                member.cluster.clone_from(&cluster);
                member.spawn();
            }
            if !join_all(members.iter_mut().map(EtcdServer::becomes_healthy)).await.contains(&false) {
                let ids = join_all(members.iter().map(EtcdServer::status)).await;
                let ids = ids.into_iter().map(|status| status.expect("a status").member).collect();
                return Self { members, ids };
            }
        }
        panic!("three of {} do not start", options.version.program());
    }

    /// From now on clients need a user: there is `root` with this password.
    pub async fn require_password(&mut self, password: &str) {
        self.members[0].require_password(password).await;
        for member in &mut self.members {
            member.password = Some(password.to_owned());
        }
    }

    /// SIGKILL.
    pub fn kill(&mut self, index: usize) {
        self.members[index].kill();
    }

    /// SIGSTOP.
    pub async fn pause(&self, index: usize) {
        self.members[index].pause().await;
    }

    /// SIGCONT.
    pub fn resume(&self, index: usize) {
        self.members[index].resume();
    }

    /// Starts a killed member again, on its data. Needs another member to be well.
    pub async fn restart(&mut self, index: usize) {
        self.members[index].restart().await;
    }

    /// Who leads, once there is a leader that can answer.
    pub async fn leader(&self) -> usize {
        let elected = async {
            loop {
                if let Some(leader) = self.leader_now().await {
                    return leader;
                }
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(START_TIMEOUT, elected).await.expect("a leader")
    }

    /// After a pause the old leader may believe that it still leads: the higher term is right.
    async fn leader_now(&self) -> Option<usize> {
        let statuses = self.statuses().await;
        let newest = statuses.iter().flatten().filter(|status| status.leader != 0).max_by_key(|status| status.term)?;
        let leader = self.ids.iter().position(|id| *id == newest.leader)?;
        statuses[leader].is_some().then_some(leader)
    }

    /// A member that does not lead.
    pub async fn follower(&self) -> usize {
        (self.leader().await + 1) % self.members.len()
    }

    /// The index of the last raft entry that any member has.
    pub async fn raft_index(&self) -> u64 {
        self.statuses().await.iter().flatten().map(|status| status.raft_index).max().expect("a status")
    }

    /// The revision of the last write that any member has.
    pub async fn revision(&self) -> u64 {
        self.statuses().await.iter().flatten().map(|status| status.revision).max().expect("a status")
    }

    /// What a client of ours is opened with.
    pub fn url(&self) -> String {
        let endpoints: Vec<_> = self.members.iter().map(EtcdServer::endpoint).collect();
        let (scheme, _) =
            self.members[0].url().split_once("://").map(|(scheme, rest)| (scheme.to_owned(), rest.to_owned())).unwrap();
        format!("{scheme}://{}", endpoints.join(","))
    }

    /// What a client of etcd's own is opened with.
    pub fn client_urls(&self) -> Vec<String> {
        self.members.iter().map(EtcdServer::client_url).collect()
    }

    async fn statuses(&self) -> Vec<Option<Status>> {
        join_all(self.members.iter().map(EtcdServer::status)).await
    }
}
