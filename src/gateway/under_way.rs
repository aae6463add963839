//! Requests that are upstream with an access token: where a renewal would end that token, it waits for them.
//! In: tokens' keys. Out: whether any is under way. Errors: none. I/O: none.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::outcome::SessionKey;

/// Counts, for each token, the requests that are upstream.
#[derive(Clone, Debug, Default)]
pub struct UnderWay(Arc<Mutex<HashMap<SessionKey, usize>>>);

/// One such request, until it is dropped.
#[derive(Debug)]
pub(super) struct OnItsWay {
    all: UnderWay,
    key: SessionKey,
}

impl UnderWay {
    /// One more.
    pub(super) fn enter(&self, key: SessionKey) -> OnItsWay {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default() += 1;
        OnItsWay { all: self.clone(), key }
    }

    /// Whether any is.
    pub(super) fn any(&self, key: SessionKey) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&key)
    }
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        let mut all = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = all.get_mut(&self.key) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                all.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_under_way_until_its_last_request_has_come_back() {
        let (all, key) = (UnderWay::default(), SessionKey([1; 32]));
        let first = all.enter(key);
        let second = all.enter(key);
        assert!(all.any(key) && !all.any(SessionKey([2; 32])));
        drop(first);
        assert!(all.any(key));
        drop(second);
        assert!(!all.any(key) && all.0.lock().expect("not poisoned").is_empty(), "nothing is left behind");
    }
}
