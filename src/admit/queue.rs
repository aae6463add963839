//! Who goes next: a bounded queue before a limited number of places, fair between client networks.
//! In: who comes and who goes. Out: who may go on, and who is turned away. Errors: none. I/O: none.
//!
//! Whoever waits for an expired session goes before early renewals, and both before strangers. Within a class the
//! networks take turns, and each network's own come in order. Over the bound somebody goes who loses least: of a class
//! behind, or the last one of the network that has the most waiting.

use std::collections::{HashMap, VecDeque};

use crate::network::Network;

/// Why somebody wants a place. The order is the order in which they get one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Somebody waits: the access token is over.
    Expired,
    /// Nobody waits: the access token still lives.
    Early,
    /// Nothing tells that it is anybody's session.
    Stranger,
}

impl Class {
    /// All of them, in order.
    pub const ALL: [Self; 3] = [Self::Expired, Self::Early, Self::Stranger];

    /// One word for metrics.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Early => "early",
            Self::Stranger => "stranger",
        }
    }
}

/// How many places there are, and how many may wait for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) places: usize,
    pub(crate) waiting: usize,
}

impl Bounds {
    /// A tenth is for strangers, and at least one.
    const fn tenth(of: usize) -> usize {
        if of < 10 { 1 } else { of / 10 }
    }
}

/// Names somebody who waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TurnId(u64);

impl TurnId {
    /// Of somebody who never waited.
    pub(crate) const NONE: Self = Self(0);
}

/// What coming to the queue leads to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Came<T> {
    /// It waits. Whoever is beside it had to go for it.
    Waits(TurnId, Option<(Class, T)>),
    /// There is no room for it.
    Full(T),
}

/// Those of one class who wait.
#[derive(Debug)]
struct Line<T> {
    networks: HashMap<Network, VecDeque<(TurnId, T)>>,
    /// Each network of the map, once, in the order of their turns.
    turns: VecDeque<Network>,
    waiting: usize,
}

impl<T> Line<T> {
    fn new() -> Self {
        Self { networks: HashMap::new(), turns: VecDeque::new(), waiting: 0 }
    }

    fn join(&mut self, network: Network, id: TurnId, item: T) {
        let of_network = self.networks.entry(network).or_default();
        if of_network.is_empty() {
            self.turns.push_back(network);
        }
        of_network.push_back((id, item));
        self.waiting += 1;
    }

    fn next(&mut self) -> Option<(TurnId, T)> {
        let network = self.turns.pop_front()?;
        let of_network = self.networks.get_mut(&network)?;
        let next = of_network.pop_front();
        if of_network.is_empty() {
            self.networks.remove(&network);
        } else {
            self.turns.push_back(network);
        }
        self.waiting -= usize::from(next.is_some());
        next
    }

    fn leave(&mut self, network: Network, id: TurnId) -> Option<T> {
        let of_network = self.networks.get_mut(&network)?;
        let place = of_network.iter().position(|(other, _)| *other == id)?;
        let left = of_network.remove(place);
        if of_network.is_empty() {
            self.networks.remove(&network);
            self.turns.retain(|other| *other != network);
        }
        self.waiting -= usize::from(left.is_some());
        left.map(|(_, item)| item)
    }

    /// The network with the most waiting, and how many these are.
    fn longest(&self) -> Option<(Network, usize)> {
        self.networks.iter().map(|(network, waiting)| (*network, waiting.len())).max_by_key(|(_, len)| *len)
    }

    fn of(&self, network: Network) -> usize {
        self.networks.get(&network).map_or(0, VecDeque::len)
    }

    /// The last who came from the network with the most waiting.
    fn drop_last(&mut self) -> Option<(TurnId, T)> {
        let (network, _) = self.longest()?;
        let (id, _) = self.networks.get(&network)?.back()?;
        let id = *id;
        self.leave(network, id).map(|item| (id, item))
    }
}

/// The queue and the places.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    bounds: Bounds,
    taken: usize,
    by_strangers: usize,
    expired: Line<T>,
    early: Line<T>,
    strangers: Line<T>,
    /// Where each who waits stands.
    stands: HashMap<TurnId, (Class, Network)>,
    last: u64,
}

impl<T> Queue<T> {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            taken: 0,
            by_strangers: 0,
            expired: Line::new(),
            early: Line::new(),
            strangers: Line::new(),
            stands: HashMap::new(),
            last: 0,
        }
    }

    /// Other bounds from now on. Nobody who waits has to go for that.
    pub(crate) const fn change(&mut self, bounds: Bounds) {
        self.bounds = bounds;
    }

    /// Somebody comes and waits; [`Self::next`] tells whose turn it is.
    pub(crate) fn join(&mut self, class: Class, network: Network, item: T) -> Came<T> {
        let gone = match self.make_room(class, network) {
            Room::There => None,
            Room::Made(class, item) => Some((class, item)),
            Room::None => return Came::Full(item),
        };
        self.last += 1;
        let id = TurnId(self.last);
        self.stands.insert(id, (class, network));
        self.line(class).join(network, id, item);
        Came::Waits(id, gone)
    }

    /// Whose turn it is, if there is a place: it takes it.
    pub(crate) fn next(&mut self) -> Option<(Class, T)> {
        if self.taken >= self.bounds.places {
            return None;
        }
        let full = self.by_strangers >= Bounds::tenth(self.bounds.places);
        let open = Class::ALL.into_iter().filter(|class| *class != Class::Stranger || !full);
        let (class, (id, item)) =
            open.into_iter().find_map(|class| self.line(class).next().map(|next| (class, next)))?;
        self.stands.remove(&id);
        self.take(class);
        Some((class, item))
    }

    /// Takes a place without waiting, over the limit where need be.
    pub(crate) fn take(&mut self, class: Class) {
        self.taken += 1;
        self.by_strangers += usize::from(class == Class::Stranger);
    }

    /// Gives a place back.
    pub(crate) fn give_back(&mut self, class: Class) {
        self.taken = self.taken.saturating_sub(1);
        let stranger = usize::from(class == Class::Stranger);
        self.by_strangers = self.by_strangers.saturating_sub(stranger);
    }

    /// Somebody who waits turns out to be of a class further ahead: it goes to the end of that one.
    pub(crate) fn promote(&mut self, id: TurnId, class: Class) {
        let Some((old, network)) = self.stands.get(&id).copied().filter(|(old, _)| class < *old) else {
            return;
        };
        if let Some(item) = self.line(old).leave(network, id) {
            self.stands.insert(id, (class, network));
            self.line(class).join(network, id, item);
        }
    }

    /// Takes out all who wait and are no longer wanted.
    pub(crate) fn sweep(&mut self, wanted: impl Fn(&T) -> bool) -> Vec<(Class, T)> {
        let mut gone = Vec::new();
        for class in Class::ALL {
            let line = self.line(class);
            let old = std::mem::replace(line, Line::new());
            let turns = old.turns;
            let mut networks = old.networks;
            for network in turns {
                for (id, item) in networks.remove(&network).unwrap_or_default() {
                    if wanted(&item) {
                        self.line(class).join(network, id, item);
                    } else {
                        self.stands.remove(&id);
                        gone.push((class, item));
                    }
                }
            }
        }
        gone
    }

    /// How many of a class wait.
    pub(crate) const fn waiting(&self, class: Class) -> usize {
        match class {
            Class::Expired => self.expired.waiting,
            Class::Early => self.early.waiting,
            Class::Stranger => self.strangers.waiting,
        }
    }

    /// Whether the next one to come finds no room.
    pub(crate) fn is_full(&self) -> bool {
        self.stands.len() >= self.bounds.waiting
    }

    fn line(&mut self, class: Class) -> &mut Line<T> {
        match class {
            Class::Expired => &mut self.expired,
            Class::Early => &mut self.early,
            Class::Stranger => &mut self.strangers,
        }
    }

    /// Room for one more of this class and network, by dropping who loses least where there is none.
    fn make_room(&mut self, class: Class, network: Network) -> Room<T> {
        let own_bound =
            class == Class::Stranger && self.strangers.waiting >= Bounds::tenth(self.bounds.waiting);
        if !own_bound && !self.is_full() {
            return Room::There;
        }
        let behind = Class::ALL.into_iter().rev().filter(|other| *other > class);
        for other in behind {
            if let Some((id, item)) = self.line(other).drop_last() {
                self.stands.remove(&id);
                return Room::Made(other, item);
            }
        }
        let line = self.line(class);
        let with_me = line.of(network) + 1;
        if line.longest().is_none_or(|(_, longest)| longest <= with_me) {
            return Room::None;
        }
        match line.drop_last() {
            Some((id, item)) => {
                self.stands.remove(&id);
                Room::Made(class, item)
            }
            None => Room::None,
        }
    }
}

enum Room<T> {
    There,
    /// For somebody who had to go.
    Made(Class, T),
    None,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn queue(places: usize, waiting: usize) -> Queue<u32> {
        Queue::new(Bounds { places, waiting })
    }

    fn network(n: u8) -> Network {
        Network::V4([10, 0, n])
    }

    fn waits(queue: &mut Queue<u32>, class: Class, n: u8, item: u32) -> TurnId {
        match queue.join(class, network(n), item) {
            Came::Waits(id, None) => id,
            other @ (Came::Waits(..) | Came::Full(_)) => panic!("{other:?}"),
        }
    }

    /// All who wait, in their order.
    fn order(queue: &mut Queue<u32>) -> Vec<u32> {
        let mut order = Vec::new();
        while let Some((class, item)) = queue.next() {
            order.push(item);
            queue.give_back(class);
        }
        order
    }

    #[test]
    fn first_come_first_served_and_the_expired_before_the_early_before_strangers() {
        let mut queue = queue(1, 100);
        for (n, class) in
            [Class::Stranger, Class::Early, Class::Expired].into_iter().cycle().take(6).enumerate()
        {
            waits(&mut queue, class, 1, u32::try_from(n).expect("small"));
        }
        assert_eq!(order(&mut queue), [2, 5, 1, 4, 0, 3]);
    }

    #[test]
    fn a_network_with_thousands_waiting_does_not_hold_up_another() {
        let mut queue = queue(1, 20_000);
        for n in 0..10_000 {
            waits(&mut queue, Class::Expired, 1, n);
        }
        waits(&mut queue, Class::Expired, 2, 99_999);
        let order = order(&mut queue);
        assert!(order.iter().take(2).any(|item| *item == 99_999), "{:?}", order.first_chunk::<3>());
        assert_eq!(order.len(), 10_001);
    }

    #[test]
    fn there_are_so_many_places_and_a_tenth_for_strangers() {
        let mut queue = queue(20, 100);
        for n in 0..10 {
            waits(&mut queue, Class::Stranger, 1, n);
        }
        assert_eq!(queue.next(), Some((Class::Stranger, 0)));
        assert_eq!(queue.next(), Some((Class::Stranger, 1)));
        assert_eq!(queue.next(), None, "two of twenty");
        for n in 100..130 {
            waits(&mut queue, Class::Expired, 1, n);
        }
        let running = std::iter::from_fn(|| queue.next()).count();
        assert_eq!(running, 18);
        queue.give_back(Class::Stranger);
        assert_eq!(queue.next(), Some((Class::Expired, 118)), "users first, there too");
    }

    #[test]
    fn over_the_bound_strangers_go_first_then_the_early_then_who_has_most() {
        let mut queue = queue(1, 20);
        waits(&mut queue, Class::Stranger, 1, 0);
        waits(&mut queue, Class::Stranger, 1, 1);
        assert_eq!(queue.join(Class::Stranger, network(1), 2), Came::Full(2), "a tenth");
        for n in 10..19 {
            waits(&mut queue, Class::Early, 1, n);
        }
        for n in 20..29 {
            waits(&mut queue, Class::Expired, 1, n);
        }
        let mut gone = Vec::new();
        for n in 30..41 {
            match queue.join(Class::Expired, network(2), n) {
                Came::Waits(_, Some((_, item))) => gone.push(item),
                other @ (Came::Waits(..) | Came::Full(_)) => panic!("{other:?}"),
            }
        }
        assert_eq!(gone, [1, 0, 18, 17, 16, 15, 14, 13, 12, 11, 10], "who came last goes first");
        assert_eq!(queue.join(Class::Early, network(3), 50), Came::Full(50), "those ahead stay");
        assert_eq!(queue.join(Class::Expired, network(2), 51), Came::Full(51), "it has the most itself");
        match queue.join(Class::Expired, network(3), 52) {
            Came::Waits(_, Some((Class::Expired, item))) => assert_eq!(item, 40, "of the one with the most"),
            other @ (Came::Waits(..) | Came::Full(_)) => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_who_is_waited_for_now_goes_before_those_who_are_not() {
        let mut queue = queue(1, 100);
        let ids: Vec<TurnId> = (0..5).map(|n| waits(&mut queue, Class::Early, 1, n)).collect();
        waits(&mut queue, Class::Expired, 1, 100);
        queue.promote(ids[3], Class::Expired);
        queue.promote(ids[3], Class::Early);
        assert_eq!(order(&mut queue), [100, 3, 0, 1, 2, 4]);
        queue.promote(ids[0], Class::Expired);
        assert_eq!(queue.next(), None, "it had gone already");
    }

    #[test]
    fn who_is_no_longer_wanted_makes_room() {
        let mut queue = queue(1, 10);
        for n in 0..10 {
            waits(&mut queue, Class::Expired, u8::try_from(n % 3).expect("small"), n);
        }
        assert!(queue.is_full());
        let gone: Vec<u32> = queue.sweep(|item| item % 2 == 0).into_iter().map(|(_, item)| item).collect();
        assert_eq!(gone.len(), 5);
        assert!(gone.iter().all(|item| item % 2 == 1));
        assert_eq!(queue.waiting(Class::Expired), 5);
        let mut rest = order(&mut queue);
        rest.sort_unstable();
        assert_eq!(rest, [0, 2, 4, 6, 8]);
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Join(Class, u8),
        Next,
        GiveBack,
        Promote(usize),
        Sweep(u32),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let class = prop::sample::select(&Class::ALL[..]);
        let step = prop_oneof![
            8 => (class, 0..4_u8).prop_map(|(class, n)| Step::Join(class, n)),
            4 => Just(Step::Next),
            3 => Just(Step::GiveBack),
            1 => (0..40_usize).prop_map(Step::Promote),
            1 => (2..5_u32).prop_map(Step::Sweep),
        ];
        prop::collection::vec(step, 0..500)
    }

    proptest! {
        /// Whatever comes and goes: nobody is lost or served twice, the bounds hold, and the counts are true.
        #[test]
        fn everybody_is_served_or_told(steps in steps(), places in 1..12_usize, waiting in 1..40_usize) {
            let mut queue = queue(places, waiting);
            let (mut came, mut ended) = (0_u32, Vec::new());
            let (mut running, mut ids): (Vec<Class>, Vec<TurnId>) = (Vec::new(), Vec::new());
            for step in steps {
                match step {
                    Step::Join(class, n) => {
                        came += 1;
                        match queue.join(class, network(n), came) {
                            Came::Waits(id, gone) => {
                                ids.push(id);
                                if let Some((other, item)) = gone {
                                    prop_assert!(other >= class, "nobody ahead goes for somebody behind");
                                    ended.push(item);
                                }
                            }
                            Came::Full(item) => ended.push(item),
                        }
                    }
                    Step::Next => if let Some((class, item)) = queue.next() {
                        let ahead = Class::ALL.into_iter().filter(|other| *other < class);
                        prop_assert!(ahead.into_iter().all(|other| queue.waiting(other) == 0));
                        running.push(class);
                        ended.push(item);
                    },
                    Step::GiveBack => if let Some(class) = running.pop() {
                        queue.give_back(class);
                    },
                    Step::Promote(n) => if let Some(id) = ids.get(n) {
                        queue.promote(*id, Class::Expired);
                    },
                    Step::Sweep(n) => ended.extend(queue.sweep(|item| item % n != 0).into_iter().map(|(_, item)| item)),
                }
                let waits: usize = Class::ALL.into_iter().map(|class| queue.waiting(class)).sum();
                prop_assert!(running.len() <= places && waits <= waiting);
                let strangers = running.iter().filter(|class| **class == Class::Stranger).count();
                prop_assert!(strangers <= Bounds::tenth(places));
                prop_assert_eq!(waits, queue.stands.len());
                prop_assert_eq!(waits + ended.len(), usize::try_from(came).unwrap());
            }
            running.into_iter().for_each(|class| queue.give_back(class));
            ended.extend(order(&mut queue));
            ended.sort_unstable();
            prop_assert_eq!(ended, (1..=came).collect::<Vec<_>>());
        }

        /// Between two services of one network every other network that waits in that class is served once.
        #[test]
        fn networks_take_turns(crowd in prop::collection::vec(0..5_u8, 1..200)) {
            let mut queue: Queue<u8> = Queue::new(Bounds { places: 1, waiting: 1000 });
            for n in &crowd {
                queue.join(Class::Expired, network(*n), *n);
            }
            let mut served = Vec::new();
            while let Some((class, n)) = queue.next() {
                queue.give_back(class);
                served.push(n);
            }
            for (at, n) in served.iter().enumerate() {
                let Some(again) = served[at + 1..].iter().position(|other| other == n) else { continue };
                for other in 0..5 {
                    let still = served[at + 1..].contains(&other);
                    let between = served[at + 1..at + 1 + again].iter().filter(|o| **o == other).count();
                    let left_after = served[at + 1 + again..].contains(&other);
                    prop_assert!(!still || other == *n || between == 1 || !left_after);
                }
            }
        }
    }
}
