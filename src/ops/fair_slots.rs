//! Costly work in fair turns: a few at a time, round robin between those for whom it is done.
//!
//! Whoever asks for a slot gets one at once if one is free. Otherwise it waits in the queue of its owner, and each slot
//! that is released goes to the owner whose turn it is, not to the oldest request: an owner with four hundred requests
//! delays another one by a single turn. Queues are bounded, for each owner and in total, and a request whose caller has
//! hung up leaves its queue.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use super::hang_up;

/// How much of a kind of work is done, and may wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Slots: how much is done at the same time.
    pub at_once: usize,
    /// The same for one owner.
    pub at_once_per_owner: usize,
    /// Requests that may wait.
    pub waiting: usize,
    /// The same for one owner.
    pub waiting_per_owner: usize,
}

/// Why there is no slot for a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NoSlot {
    /// As many requests of this owner wait as may.
    #[error("too many requests of this tenant wait for it")]
    OwnerQueueFull,
    /// As many requests of all owners wait as may.
    #[error("too many requests wait for it")]
    QueueFull,
    /// The caller hung up, so nothing was begun.
    #[error("the caller hung up before its turn came")]
    HungUp,
}

/// The slots for one kind of work. Cheap to clone.
#[derive(Debug)]
pub struct FairSlots<K: Eq + Hash + Clone> {
    limits: Limits,
    state: Arc<Mutex<State<K>>>,
}

impl<K: Eq + Hash + Clone> Clone for FairSlots<K> {
    fn clone(&self) -> Self {
        Self {
            limits: self.limits,
            state: Arc::clone(&self.state),
        }
    }
}

/// The right to do one piece of the work. Released when it is dropped.
#[derive(Debug)]
pub struct Slot<K: Eq + Hash + Clone> {
    owner: K,
    slots: FairSlots<K>,
}

#[derive(Debug)]
struct State<K> {
    /// Slots in use.
    running: usize,
    /// Requests that wait.
    waiting: usize,
    /// Owners for whom something runs or waits.
    owners: HashMap<K, OwnerState>,
    /// The owners of whom a request waits and may run, the next one first. Empty while a slot is free.
    turns: VecDeque<K>,
    next_ticket: u64,
}

#[derive(Default, Debug)]
struct OwnerState {
    running: usize,
    waiting: VecDeque<Waiting>,
    /// Whether it is among [`State::turns`].
    has_turn: bool,
}

/// A request in its owner's queue. Its receiver lives for as long as it is there.
#[derive(Debug)]
struct Waiting {
    ticket: u64,
    grant: oneshot::Sender<()>,
}

/// A place in a queue. Dropped, it leaves the queue, or releases the slot that it was granted and never took.
struct Place<'a, K: Eq + Hash + Clone> {
    slots: &'a FairSlots<K>,
    owner: &'a K,
    ticket: u64,
    taken: bool,
}

impl<K: Eq + Hash + Clone> FairSlots<K> {
    /// Slots with these limits, all of them free.
    pub fn new(limits: Limits) -> Self {
        let state = State {
            running: 0,
            waiting: 0,
            owners: HashMap::new(),
            turns: VecDeque::new(),
            next_ticket: 0,
        };
        Self {
            limits,
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Waits for a slot. Fails at once if a queue is full, and with [`NoSlot::HungUp`] when the caller of the operation
    /// hangs up first.
    pub async fn acquire(&self, owner: K) -> Result<Slot<K>, NoSlot> {
        let (ticket, granted) = {
            let mut state = self.lock();
            match state.request(&self.limits, &owner)? {
                None => {
                    drop(state);
                    return Ok(self.slot(owner));
                }
                Some(waiting) => waiting,
            }
        };
        let mut place = Place {
            slots: self,
            owner: &owner,
            ticket,
            taken: false,
        };
        tokio::select! {
            biased;
            // A place is in its queue until it is granted, so the sender is not dropped before.
            _ = granted => {}
            () = hang_up::hung_up() => return Err(NoSlot::HungUp),
        }
        place.taken = true;
        drop(place);
        Ok(self.slot(owner))
    }

    fn slot(&self, owner: K) -> Slot<K> {
        Slot {
            owner,
            slots: self.clone(),
        }
    }

    /// Held for a few instructions that cannot panic half-way.
    fn lock(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash + Clone> State<K> {
    /// Takes a slot (`None`), or a place in the owner's queue.
    fn request(
        &mut self,
        limits: &Limits,
        owner: &K,
    ) -> Result<Option<(u64, oneshot::Receiver<()>)>, NoSlot> {
        let of_owner = self.owners.entry(owner.clone()).or_default();
        if self.running < limits.at_once && of_owner.running < limits.at_once_per_owner {
            of_owner.running += 1;
            self.running += 1;
            return Ok(None);
        }
        let full = if of_owner.waiting.len() >= limits.waiting_per_owner {
            Some(NoSlot::OwnerQueueFull)
        } else if self.waiting >= limits.waiting {
            Some(NoSlot::QueueFull)
        } else {
            None
        };
        if let Some(full) = full {
            self.forget_if_idle(owner);
            return Err(full);
        }
        let (grant, granted) = oneshot::channel();
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.waiting += 1;
        of_owner.waiting.push_back(Waiting { ticket, grant });
        self.give_turn(limits, owner);
        Ok(Some((ticket, granted)))
    }

    /// Lets an owner take part in the round if one of its requests waits and may run.
    fn give_turn(&mut self, limits: &Limits, owner: &K) {
        if let Some(of_owner) = self.owners.get_mut(owner)
            && !of_owner.has_turn
            && !of_owner.waiting.is_empty()
            && of_owner.running < limits.at_once_per_owner
        {
            of_owner.has_turn = true;
            self.turns.push_back(owner.clone());
        }
    }

    /// Grants free slots to those whose turn it is.
    fn grant_free(&mut self, limits: &Limits) {
        while self.running < limits.at_once {
            let Some(owner) = self.turns.pop_front() else {
                return;
            };
            let Some(of_owner) = self.owners.get_mut(&owner) else {
                continue;
            };
            of_owner.has_turn = false;
            // All of its requests may have left the queue.
            if let Some(next) = of_owner.waiting.pop_front() {
                of_owner.running += 1;
                self.running += 1;
                self.waiting -= 1;
                // Its receiver is there: a place that is dropped leaves the queue first.
                let _ = next.grant.send(());
                self.give_turn(limits, &owner);
            }
            self.forget_if_idle(&owner);
        }
    }

    fn release(&mut self, limits: &Limits, owner: &K) {
        if let Some(of_owner) = self.owners.get_mut(owner) {
            of_owner.running -= 1;
            self.running -= 1;
        }
        self.give_turn(limits, owner);
        self.forget_if_idle(owner);
        self.grant_free(limits);
    }

    /// Takes a request out of its queue. `false` if it is not there, because its slot was granted.
    fn leave(&mut self, owner: &K, ticket: u64) -> bool {
        let Some(of_owner) = self.owners.get_mut(owner) else {
            return false;
        };
        let Some(at) = of_owner.waiting.iter().position(|one| one.ticket == ticket) else {
            return false;
        };
        of_owner.waiting.remove(at);
        self.waiting -= 1;
        self.forget_if_idle(owner);
        true
    }

    fn forget_if_idle(&mut self, owner: &K) {
        if self.owners.get(owner).is_some_and(|of_owner| {
            of_owner.running == 0 && of_owner.waiting.is_empty() && !of_owner.has_turn
        }) {
            self.owners.remove(owner);
        }
    }
}

impl<K: Eq + Hash + Clone> Drop for Slot<K> {
    fn drop(&mut self) {
        let mut state = self.slots.lock();
        state.release(&self.slots.limits, &self.owner);
    }
}

impl<K: Eq + Hash + Clone> Drop for Place<'_, K> {
    fn drop(&mut self) {
        if self.taken {
            return;
        }
        let mut state = self.slots.lock();
        if !state.leave(self.owner, self.ticket) {
            state.release(&self.slots.limits, self.owner);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::Future,
        pin::Pin,
        task::{Context, Poll, Waker},
    };

    use super::*;

    type Acquiring<'a> = Pin<Box<dyn Future<Output = Result<Slot<char>, NoSlot>> + 'a>>;

    const LIMITS: Limits = Limits {
        at_once: 1,
        at_once_per_owner: 1,
        waiting: 100,
        waiting_per_owner: 50,
    };

    /// Whether it has its slot, or why it gets none; `None`: it waits.
    fn poll(acquiring: &mut Acquiring<'_>) -> Option<Result<Slot<char>, NoSlot>> {
        match acquiring.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(outcome) => Some(outcome),
            Poll::Pending => None,
        }
    }

    fn waiting<'a>(slots: &'a FairSlots<char>, owner: char) -> Acquiring<'a> {
        let mut acquiring: Acquiring<'a> = Box::pin(slots.acquire(owner));
        assert!(poll(&mut acquiring).is_none(), "{owner} does not wait");
        acquiring
    }

    fn now(slots: &FairSlots<char>, owner: char) -> Result<Slot<char>, NoSlot> {
        let mut acquiring: Acquiring<'_> = Box::pin(slots.acquire(owner));
        poll(&mut acquiring).expect("it waits")
    }

    /// Releases the slot again and again; the owners in the order in which they got it.
    fn order(mut held: Slot<char>, mut queue: Vec<(char, Acquiring<'_>)>) -> String {
        let mut order = String::new();
        while !queue.is_empty() {
            drop(held);
            let mut granted = None;
            queue.retain_mut(|(owner, acquiring)| match poll(acquiring) {
                None => true,
                Some(outcome) => {
                    assert!(granted.is_none(), "two have the one slot");
                    order.push(*owner);
                    granted = Some(outcome.unwrap());
                    false
                }
            });
            held = granted.expect("the slot is free and one waits");
        }
        order
    }

    #[test]
    fn owners_take_turns_however_many_requests_each_has() {
        let slots = FairSlots::new(LIMITS);
        let held = now(&slots, 'a').unwrap();
        let queue = "aaaaaabbbc".chars().map(|owner| (owner, waiting(&slots, owner)));
        let queue: Vec<_> = queue.collect();
        // The holder's turn was the first, so that the others come before it again.
        assert_eq!(order(held, queue), "bcababaaaa");
        assert!(slots.lock().owners.is_empty(), "owners are left behind");
    }

    #[test]
    fn a_newcomer_waits_for_one_turn_of_each_other_owner_and_not_for_their_queues() {
        let slots = FairSlots::new(LIMITS);
        let held = now(&slots, 'a').unwrap();
        let mut queue: Vec<_> = (0..40).map(|_| ('a', waiting(&slots, 'a'))).collect();
        queue.push(('b', waiting(&slots, 'b')));
        let order = order(held, queue);
        assert!(order.find('b').unwrap() <= 1, "{order}");
    }

    #[test]
    fn one_owner_never_has_more_slots_than_it_may() {
        let slots = FairSlots::new(Limits {
            at_once: 3,
            at_once_per_owner: 2,
            ..LIMITS
        });
        let (first, _second) = (now(&slots, 'a').unwrap(), now(&slots, 'a').unwrap());
        let mut third = waiting(&slots, 'a');
        // A slot is free, and another owner gets it at once.
        let other = now(&slots, 'b').unwrap();
        let mut fourth = waiting(&slots, 'c');
        drop(other);
        assert!(poll(&mut third).is_none(), "a has two");
        let fourth = poll(&mut fourth).unwrap().unwrap();
        drop(first);
        let third = poll(&mut third).unwrap().unwrap();
        drop((third, fourth));
        drop(now(&slots, 'a').unwrap());
    }

    #[test]
    fn full_queues_refuse_at_once_and_say_whose_they_are() {
        let slots = FairSlots::new(Limits {
            waiting: 3,
            waiting_per_owner: 2,
            ..LIMITS
        });
        let held = now(&slots, 'a').unwrap();
        let mut queue = vec![waiting(&slots, 'a'), waiting(&slots, 'a')];
        assert_eq!(now(&slots, 'a').unwrap_err(), NoSlot::OwnerQueueFull);
        queue.push(waiting(&slots, 'b'));
        assert_eq!(now(&slots, 'c').unwrap_err(), NoSlot::QueueFull);
        assert!(!slots.lock().owners.contains_key(&'c'), "it is left behind");
        // Who leaves makes room.
        drop(queue.remove(0));
        drop(waiting(&slots, 'c'));
        drop(queue);
        assert_eq!(slots.lock().waiting, 0);
        drop(held);
        drop(now(&slots, 'c').unwrap());
    }

    #[test]
    fn a_slot_that_was_granted_and_never_taken_goes_to_the_next() {
        let slots = FairSlots::new(LIMITS);
        let held = now(&slots, 'a').unwrap();
        let (granted, mut next) = (waiting(&slots, 'b'), waiting(&slots, 'c'));
        drop(held);
        assert!(poll(&mut next).is_none(), "it is b's");
        drop(granted);
        let slot = poll(&mut next).unwrap().unwrap();
        drop(slot);
        let state = slots.lock();
        assert_eq!((state.running, state.waiting, state.owners.len()), (0, 0, 0));
    }

    #[tokio::test]
    async fn a_caller_that_hangs_up_leaves_the_queue_although_its_operation_goes_on() {
        let slots = FairSlots::new(LIMITS);
        let held = slots.acquire('a').await.unwrap();
        let (caller, gone) = hang_up::caller();
        let asking = slots.clone();
        let operation = tokio::spawn(hang_up::run_for(gone, async move {
            asking.acquire('b').await.map(drop)
        }));
        while slots.lock().waiting == 0 {
            tokio::task::yield_now().await;
        }
        drop(caller);
        assert_eq!(operation.await.unwrap(), Err(NoSlot::HungUp));
        assert_eq!(slots.lock().waiting, 0);
        drop(held);
        assert_eq!(slots.lock().running, 0);
    }
}
