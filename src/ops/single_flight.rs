//! Work that is under way once for each key: whoever asks for it meanwhile shares its outcome.

use std::{
    collections::HashMap,
    future::Future,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use tokio::sync::watch;

use super::{Error, fair_slots::NoSlot, hang_up};

/// What those who share an outcome get.
pub(super) type Shared<T> = Result<Arc<T>, Arc<Error>>;

/// The work that is under way. Cheap to clone.
#[derive(Debug)]
pub(super) struct SingleFlight<K, T> {
    flights: Arc<Mutex<HashMap<K, Flight<T>>>>,
}

/// Its outcome, once there is one. It belongs to the task that works: if that ends without an outcome, those who wait
/// see it.
type Flight<T> = Weak<watch::Sender<Option<Shared<T>>>>;

impl<K, T> Clone for SingleFlight<K, T> {
    fn clone(&self) -> Self {
        Self {
            flights: Arc::clone(&self.flights),
        }
    }
}

impl<K, T> Default for SingleFlight<K, T> {
    fn default() -> Self {
        Self {
            flights: Arc::default(),
        }
    }
}

impl<K, T> SingleFlight<K, T>
where
    K: Eq + Hash + Clone + Send + 'static,
    T: Send + Sync + 'static,
{
    /// The outcome of the work for a key: of that which is under way, or else of this.
    ///
    /// The work waits for its turn first, and both are done in a task of their own. The turn is given up when all who
    /// asked have hung up; work that has begun goes on without them. Fails with [`Error::Shared`] as the work does.
    pub(super) async fn share<S, Working>(
        &self,
        key: K,
        turn: impl Future<Output = Result<S, Error>> + Send + 'static,
        work: impl FnOnce(S) -> Working + Send + 'static,
    ) -> Result<Arc<T>, Error>
    where
        S: Send,
        Working: Future<Output = Result<T, Error>> + Send,
    {
        let mut outcome = {
            let mut flights = self.lock();
            match flights.get(&key).and_then(Weak::upgrade) {
                Some(sender) => sender.subscribe(),
                None => self.start(&mut flights, key, turn, work),
            }
        };
        let outcome = tokio::select! {
            biased;
            seen = outcome.wait_for(Option::is_some) => seen.ok().and_then(|seen| seen.clone()),
            () = hang_up::hung_up() => return Err(Error::NoSlot { work: "check a domain", reason: NoSlot::HungUp }),
        };
        outcome
            .ok_or(Error::Task("shared work ended without an outcome"))?
            .map_err(Error::Shared)
    }

    /// The outcome of this work, or none, and nothing done, if some is under way for the key.
    pub(super) async fn run_unless_under_way<Working>(
        &self,
        key: K,
        work: impl FnOnce() -> Working + Send + 'static,
    ) -> Result<Option<Arc<T>>, Error>
    where
        Working: Future<Output = Result<T, Error>> + Send,
    {
        if self.lock().get(&key).and_then(Weak::upgrade).is_some() {
            return Ok(None);
        }
        let turn = std::future::ready(Ok(()));
        self.share(key, turn, move |()| work()).await.map(Some)
    }

    fn start<S, Working>(
        &self,
        flights: &mut HashMap<K, Flight<T>>,
        key: K,
        turn: impl Future<Output = Result<S, Error>> + Send + 'static,
        work: impl FnOnce(S) -> Working + Send + 'static,
    ) -> watch::Receiver<Option<Shared<T>>>
    where
        S: Send,
        Working: Future<Output = Result<T, Error>> + Send,
    {
        let (sender, receiver) = watch::channel(None);
        let sender = Arc::new(sender);
        flights.insert(key.clone(), Arc::downgrade(&sender));
        let register = self.clone();
        tokio::spawn(async move {
            let mut turn = std::pin::pin!(turn);
            let turn = loop {
                tokio::select! {
                    turn = turn.as_mut() => break turn,
                    () = sender.closed() => if register.ends_unwanted(&key, &sender) { return },
                }
            };
            let outcome = match turn {
                Ok(turn) => work(turn).await,
                Err(error) => Err(error),
            };
            // In one step: whoever asks later starts again.
            let mut flights = register.lock();
            flights.remove(&key);
            sender.send_replace(Some(outcome.map(Arc::new).map_err(Arc::new)));
        });
        receiver
    }

    /// Ends a flight that has not begun, if no caller waits for it.
    fn ends_unwanted(&self, key: &K, sender: &watch::Sender<Option<Shared<T>>>) -> bool {
        let mut flights = self.lock();
        let is_unwanted = sender.receiver_count() == 0;
        if is_unwanted {
            flights.remove(key);
        }
        is_unwanted
    }

    /// Held for a few instructions that cannot panic half-way.
    fn lock(&self) -> MutexGuard<'_, HashMap<K, Flight<T>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::{Ready, ready},
        sync::atomic::{AtomicUsize, Ordering::SeqCst},
    };

    use futures_util::future::join_all;
    use tokio::sync::{Notify, Semaphore};

    use super::*;

    /// Work that counts how often it was begun, and ends when it is let.
    #[derive(Clone, Default)]
    struct Work {
        begun: Arc<AtomicUsize>,
        let_end: Arc<Notify>,
    }

    impl Work {
        async fn run(self) -> Result<usize, Error> {
            let number = self.begun.fetch_add(1, SeqCst);
            self.let_end.notified().await;
            Ok(number)
        }

        async fn until_begun(&self, times: usize) {
            while self.begun.load(SeqCst) < times {
                tokio::task::yield_now().await;
            }
        }
    }

    fn at_once() -> Ready<Result<(), Error>> {
        ready(Ok(()))
    }

    #[tokio::test]
    async fn those_who_ask_meanwhile_share_one_outcome_and_later_ones_start_again() {
        let (flights, work) = (SingleFlight::<char, usize>::default(), Work::default());
        let ask = |key| {
            let working = work.clone();
            flights.share(key, at_once(), move |()| working.run())
        };
        let all = tokio::spawn(join_all((0..10).map(|_| {
            let (flights, working) = (flights.clone(), work.clone());
            async move { flights.share('a', at_once(), move |()| working.run()).await }
        })));
        work.until_begun(1).await;
        work.let_end.notify_one();
        for outcome in all.await.unwrap() {
            assert_eq!(*outcome.unwrap(), 0);
        }
        assert!(flights.lock().is_empty());
        work.let_end.notify_one();
        assert_eq!(*ask('a').await.unwrap(), 1);
        let other = tokio::spawn({
            let (flights, working) = (flights.clone(), work.clone());
            async move { flights.share('a', at_once(), move |()| working.run()).await }
        });
        work.until_begun(3).await;
        let skipped = flights
            .run_unless_under_way('a', || async { unreachable!("some is under way") })
            .await;
        assert!(skipped.unwrap().is_none());
        work.let_end.notify_one();
        assert_eq!(*other.await.unwrap().unwrap(), 2);
    }

    #[tokio::test]
    async fn a_turn_that_no_caller_waits_for_is_given_up_and_begun_work_goes_on() {
        let (flights, work) = (SingleFlight::<char, usize>::default(), Work::default());
        let turns = Arc::new(Semaphore::new(0));
        let asking = || {
            let (flights, turns, working) = (flights.clone(), Arc::clone(&turns), work.clone());
            let (caller, hung_up) = hang_up::caller();
            let asked = tokio::spawn(hang_up::run_for(hung_up, async move {
                let turn = async move { turns.acquire_owned().await.map_err(|_| Error::Task("closed")) };
                flights.share('a', turn, move |_turn| working.run()).await
            }));
            (caller, asked)
        };
        let ((one, first), (other, second)) = (asking(), asking());
        while flights.lock().is_empty() {
            tokio::task::yield_now().await;
        }
        drop(one);
        let gone = first.await.unwrap().unwrap_err();
        assert!(
            matches!(
                gone,
                Error::NoSlot {
                    reason: NoSlot::HungUp,
                    ..
                }
            ),
            "{gone:?}"
        );
        assert_eq!(flights.lock().len(), 1, "one still waits");
        drop(other);
        second.await.unwrap().unwrap_err();
        while !flights.lock().is_empty() {
            tokio::task::yield_now().await;
        }
        // Begun, it goes on without any caller.
        turns.add_permits(1);
        let (caller, asked) = asking();
        work.until_begun(1).await;
        drop(caller);
        asked.await.unwrap().unwrap_err();
        work.let_end.notify_one();
        while !flights.lock().is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!((work.begun.load(SeqCst), turns.available_permits()), (1, 1));
    }

    #[tokio::test]
    async fn a_failure_is_shared_and_work_that_panics_leaves_no_caller_waiting() {
        let flights = SingleFlight::<char, usize>::default();
        let refused = flights
            .share('a', at_once(), |()| async { Err(Error::InvalidApiKey) })
            .await;
        let Err(Error::Shared(error)) = refused else {
            panic!("{refused:?}")
        };
        assert!(matches!(*error, Error::InvalidApiKey));
        let panicked = flights
            .share('a', at_once(), |()| async { panic!("as a bug does") })
            .await;
        assert!(matches!(panicked, Err(Error::Task(_))), "{panicked:?}");
        let after = flights.share('a', at_once(), |()| async { Ok(1) }).await;
        assert_eq!(*after.unwrap(), 1);
    }
}
