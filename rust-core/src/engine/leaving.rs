//! The list of what is being released or withdrawn in the background.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::clock::Instant;
use crate::engine::lease_record::LeaseRecord;
use crate::engine::weak_list::WeakList;
use crate::owner::OwnerId;

/// What one owner still has in the backend.
pub(crate) struct Leaving {
    pub(crate) key: Arc<str>,
    pub(crate) owner: OwnerId,
    /// When a request was sent that was never answered.
    pub(crate) unanswered: Option<Instant>,
    /// The lease that is being released.
    pub(crate) record: Option<Arc<LeaseRecord>>,
    /// Nobody else need go on with it: it is done, or taken over.
    over: AtomicBool,
}

/// All that is under way.
#[derive(Default)]
pub(crate) struct LeavingList(Mutex<WeakList<Leaving>>);

impl LeavingList {
    pub(super) fn add(&self, leaving: &Arc<Leaving>) {
        self.0.lock().add(Arc::downgrade(leaving));
    }

    pub(super) fn all(&self) -> Vec<Arc<Leaving>> {
        self.0.lock().all().filter(|leaving| !leaving.over.load(Ordering::Acquire)).collect()
    }
}

impl Leaving {
    pub(crate) fn new(key: Arc<str>, owner: OwnerId, unanswered: Option<Instant>, record: Option<Arc<LeaseRecord>>) -> Arc<Self> {
        Arc::new(Self { key, owner, unanswered, record, over: AtomicBool::new(false) })
    }

    /// True for the first caller: it goes on with it, or has done it. Nobody else need.
    pub(super) fn take_over(&self) -> bool {
        !self.over.swap(true, Ordering::AcqRel)
    }
}
