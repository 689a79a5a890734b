//! Places for connections. When all are taken, whoever has asked nothing for the longest time makes room: ten thousand
//! silent connections keep no one out, and a request that is being answered is never cut.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// All places.
#[derive(Clone)]
pub struct Places {
    free: Arc<Semaphore>,
    idle: Arc<Mutex<Idle>>,
}

/// Connections that ask nothing, those that have done so longest first.
#[derive(Default)]
struct Idle {
    since: BTreeMap<u64, Arc<Notify>>,
    next: u64,
}

/// One connection's place; dropping it gives it back.
pub struct Place {
    presence: Arc<Presence>,
    _permit: OwnedSemaphorePermit,
}

/// What is known of a connection.
struct Presence {
    places: Places,
    /// Requests being answered.
    busy: AtomicUsize,
    /// Its number among the idle.
    number: Mutex<Option<u64>>,
    leave: Arc<Notify>,
}

/// A request being answered.
pub struct Busy(Arc<Presence>);

impl Places {
    pub fn new(most: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(most)), idle: Arc::default() }
    }

    /// A free place, or that of the connection that was silent longest. Waits where every connection is being answered.
    pub async fn take(&self) -> Place {
        let permit = match Arc::clone(&self.free).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                self.ask_to_leave();
                Arc::clone(&self.free).acquire_owned().await.expect("never closed")
            }
        };
        let presence = Arc::new(Presence {
            places: self.clone(),
            busy: AtomicUsize::new(0),
            number: Mutex::default(),
            leave: Arc::default(),
        });
        presence.rest();
        Place { presence, _permit: permit }
    }

    fn ask_to_leave(&self) {
        if let Some((_, leave)) = self.idle().since.pop_first() {
            leave.notify_one();
        }
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Resolves when others need the place more.
    pub async fn wanted(&self) {
        self.presence.leave.notified().await;
    }

    /// How the connection's requests say that they are being answered.
    pub fn requests(&self) -> impl Fn() -> Busy + Clone + Send + Sync + 'static {
        let presence = Arc::clone(&self.presence);
        move || Busy::begin(&presence)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.presence.withdraw();
    }
}

impl Presence {
    fn rest(&self) {
        let mut number = self.number();
        let mut idle = self.places.idle();
        idle.next += 1;
        let place = idle.next;
        idle.since.insert(place, Arc::clone(&self.leave));
        *number = Some(place);
    }

    fn withdraw(&self) {
        if let Some(number) = self.number().take() {
            self.places.idle().since.remove(&number);
        }
    }

    fn number(&self) -> MutexGuard<'_, Option<u64>> {
        self.number.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Busy {
    fn begin(presence: &Arc<Presence>) -> Self {
        if presence.busy.fetch_add(1, Ordering::AcqRel) == 0 {
            presence.withdraw();
        }
        Self(Arc::clone(presence))
    }

    /// Until all of `body` was sent, or nobody wants it any more.
    pub fn until_sent(self, body: Body) -> Body {
        Body::new(Sending { body, _busy: self })
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if self.0.busy.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.rest();
        }
    }
}

/// A body that keeps its connection busy.
struct Sending {
    body: Body,
    _busy: Busy,
}

impl HttpBody for Sending {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn leaves(place: &Place) -> bool {
        tokio::time::timeout(Duration::from_millis(20), place.wanted()).await.is_ok()
    }

    #[tokio::test]
    async fn the_one_that_was_silent_longest_makes_room() {
        let places = Places::new(3);
        let [first, second, third] = [places.take().await, places.take().await, places.take().await];
        drop(first.requests()());
        let newcomer = tokio::spawn({
            let places = places.clone();
            async move { drop(places.take().await) }
        });
        second.wanted().await;
        assert!(!leaves(&first).await && !leaves(&third).await);
        drop(second);
        newcomer.await.expect("it found a place");
    }

    #[tokio::test]
    async fn whoever_is_being_answered_stays_until_the_last_byte() {
        let places = Places::new(1);
        let place = places.take().await;
        let body = place.requests()().until_sent(Body::from("an answer"));
        let newcomer = tokio::spawn({
            let places = places.clone();
            async move { drop(places.take().await) }
        });
        assert!(!leaves(&place).await);
        drop(body);
        drop(place);
        newcomer.await.expect("it waited");
        assert!(places.idle().since.is_empty());
    }
}
