//! Who may ask upstream next: fair between sandboxes.
//!
//! A sandbox may have as many questions outstanding as are left free for all others. One that
//! floods gets half of all places, two that flood a third each; whoever comes new finds a place at
//! once. Waiting sandboxes take turns, whatever the length of their queues.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Tells sandboxes apart.
pub(crate) type Client = u64;

/// The places, and who waits for them.
#[derive(Debug)]
pub(crate) struct Turns {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    free: usize,
    running: HashMap<Client, usize>,
    waiting: HashMap<Client, VecDeque<oneshot::Sender<Turn>>>,
    /// The waiting clients, the next one first.
    ring: VecDeque<Client>,
}

/// A place; it is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    turns: Arc<Turns>,
    client: Client,
}

impl Turns {
    /// With this many places.
    pub(crate) fn new(places: usize) -> Arc<Self> {
        let (running, waiting) = (HashMap::new(), HashMap::new());
        let state = State { free: places, running, waiting, ring: VecDeque::new() };
        Arc::new(Self { state: Mutex::new(state) })
    }

    /// Waits for a place.
    pub(crate) async fn wait(self: &Arc<Self>, client: Client) -> Turn {
        loop {
            let receiver = {
                let mut state = self.lock();
                if !state.waiting.contains_key(&client) && state.may_start(client) {
                    state.start(client);
                    return self.turn(client);
                }
                state.enqueue(client)
            };
            // The sender is only dropped together with all of `self`.
            if let Ok(turn) = receiver.await {
                return turn;
            }
        }
    }

    fn turn(self: &Arc<Self>, client: Client) -> Turn {
        Turn { turns: Arc::clone(self), client }
    }

    /// Hands free places to those who wait. Turns that nobody waits for any more come back as
    /// garbage, to be dropped without the lock.
    fn hand_out(self: &Arc<Self>, state: &mut State) -> Vec<Turn> {
        let mut abandoned = Vec::new();
        let mut passed = 0;
        while passed < state.ring.len() {
            let Some(client) = state.ring.pop_front() else { break };
            if !state.may_start(client) {
                state.ring.push_back(client);
                passed += 1;
                continue;
            }
            if let Some(sender) = state.dequeue(client) {
                state.start(client);
                if let Err(turn) = sender.send(self.turn(client)) {
                    abandoned.push(turn);
                }
            }
            passed = 0;
        }
        abandoned
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn may_start(&self, client: Client) -> bool {
        self.running.get(&client).copied().unwrap_or_default() < self.free
    }

    fn start(&mut self, client: Client) {
        self.free -= 1;
        *self.running.entry(client).or_default() += 1;
    }

    fn end(&mut self, client: Client) {
        self.free += 1;
        if let Some(count) = self.running.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                self.running.remove(&client);
            }
        }
    }

    fn enqueue(&mut self, client: Client) -> oneshot::Receiver<Turn> {
        let (sender, receiver) = oneshot::channel();
        let queue = self.waiting.entry(client).or_default();
        if queue.is_empty() {
            self.ring.push_back(client);
        }
        queue.push_back(sender);
        receiver
    }

    /// Takes the first of a client's queue, and puts the client behind the others.
    fn dequeue(&mut self, client: Client) -> Option<oneshot::Sender<Turn>> {
        let queue = self.waiting.get_mut(&client)?;
        let sender = queue.pop_front();
        if queue.is_empty() {
            self.waiting.remove(&client);
        } else {
            self.ring.push_back(client);
        }
        sender
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let abandoned = {
            let mut state = self.turns.lock();
            state.end(self.client);
            self.turns.hand_out(&mut state)
        };
        drop(abandoned);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn poll<F: Future<Output = Turn>>(future: std::pin::Pin<&mut F>) -> Option<Turn> {
        match future.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(turn) => Some(turn),
            Poll::Pending => None,
        }
    }

    fn start(turns: &Arc<Turns>, client: Client) -> Option<Turn> {
        poll(pin!(turns.wait(client)))
    }

    #[test]
    fn one_client_gets_half_of_the_places() {
        let turns = Turns::new(8);
        let held: Vec<_> = std::iter::from_fn(|| start(&turns, 1)).collect();
        assert_eq!(held.len(), 4);
    }

    #[test]
    fn a_newcomer_starts_at_once_while_others_flood() {
        let turns = Turns::new(64);
        let held: Vec<_> =
            (1..=3).flat_map(|c| std::iter::from_fn(move || Some(c)).take(1000)).collect();
        let held: Vec<_> = held.into_iter().filter_map(|c| start(&turns, c)).collect();
        assert!(held.len() > 32, "{}", held.len());
        assert!(start(&turns, 4).is_some());
    }

    #[test]
    fn waiting_clients_take_turns() {
        let turns = Turns::new(2);
        let first = start(&turns, 1).unwrap();
        let mut a = pin!(turns.wait(1));
        let mut b = pin!(turns.wait(1));
        let mut c = pin!(turns.wait(1));
        assert!(poll(a.as_mut()).is_none() && poll(b.as_mut()).is_none());
        let second = start(&turns, 2).unwrap();
        let mut d = pin!(turns.wait(2));
        assert!(poll(d.as_mut()).is_none() && poll(c.as_mut()).is_none());
        drop((first, second));
        let a = poll(a.as_mut()).unwrap();
        // The first client's second question waits behind the second client's.
        let d = poll(d.as_mut());
        assert!(d.is_some() || poll(b.as_mut()).is_none());
        drop((a, d));
        let b = poll(b.as_mut()).unwrap();
        drop(b);
        assert!(poll(c.as_mut()).is_some());
    }

    #[test]
    fn a_turn_nobody_waits_for_any_more_goes_to_the_next() {
        let turns = Turns::new(2);
        let first = start(&turns, 1).unwrap();
        assert!(start(&turns, 1).is_none(), "waits, and is given up");
        let mut next = pin!(turns.wait(1));
        assert!(poll(next.as_mut()).is_none());
        drop(first);
        assert!(poll(next.as_mut()).is_some());
    }
}
