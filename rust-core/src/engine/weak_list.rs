//! A list of what is under way, which others own.

use std::sync::{Arc, Weak};

/// How long the list gets before the first look for what is over.
const FIRST_LOOK: usize = 64;

/// What is under way. What is over keeps its memory until the next look, which comes when the list has doubled: so an addition costs the same
/// however long the list is.
pub(super) struct WeakList<T: ?Sized> {
    listed: Vec<Weak<T>>,
    look_at: usize,
}

impl<T: ?Sized> Default for WeakList<T> {
    fn default() -> Self {
        Self { listed: Vec::new(), look_at: FIRST_LOOK }
    }
}

impl<T: ?Sized> WeakList<T> {
    pub(super) fn add(&mut self, item: Weak<T>) {
        if self.listed.len() >= self.look_at {
            self.listed.retain(|known| known.strong_count() > 0);
            self.look_at = FIRST_LOOK.max(self.listed.len() * 2);
        }
        self.listed.push(item);
    }

    /// What is not over.
    pub(super) fn all(&self) -> impl Iterator<Item = Arc<T>> {
        self.listed.iter().filter_map(Weak::upgrade)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r17_what_is_over_does_not_pile_up() {
        let mut list = WeakList::default();
        let under_way: Vec<_> = (0..10).map(Arc::new).collect();
        for item in &under_way {
            list.add(Arc::downgrade(item));
        }
        for number in 10..10 * FIRST_LOOK {
            list.add(Arc::downgrade(&Arc::new(number)));
        }
        assert_eq!(list.all().map(|item| *item).collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
        assert!(list.listed.len() <= FIRST_LOOK + under_way.len());
    }
}
