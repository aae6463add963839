//! Places for client connections: so many in all, and so many for each client's network.
//! In: limits, addresses. Out: [`Seat`]s, which go with their connection and its tunnels. Errors: none; a full house is `None`.
//! I/O: none. Source: RFC 6177 §2 (why an IPv6 client is its /64: one site has at least that many addresses).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipnet::IpNet;

use crate::meter::Meters;

/// How long a connection without a request keeps what serves requests, and how long once so many are open.
const NAP: Duration = Duration::from_millis(250);
const SHORT_NAP: Duration = Duration::from_millis(20);
const CROWD: usize = 1000;

/// How many connections there may be.
#[derive(Clone, Debug)]
pub struct SeatLimits {
    /// In all.
    pub connections: usize,
    /// For each IPv4 address and each IPv6 /64.
    pub per_client: usize,
    /// Networks that `per_client` does not hold for: those of proxies, behind which many clients are.
    pub unlimited: Vec<IpNet>,
}

/// The places of a server, shared by its listeners. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Seats {
    taken: Arc<AtomicUsize>,
    limits: Arc<SeatLimits>,
    clients: Arc<Mutex<HashMap<IpAddr, usize>>>,
    meters: Arc<Meters>,
}

/// A connection's place among those that may be open. It goes with the stream, into a tunnel too.
#[derive(Debug)]
pub(super) struct Seat {
    _counted: Counted,
    /// Taken once it is known who the client is.
    client: Option<ClientSeat>,
}

impl Seats {
    /// Empty places.
    #[must_use]
    pub fn new(limits: SeatLimits, meters: Arc<Meters>) -> Self {
        Self { taken: Arc::default(), limits: Arc::new(limits), clients: Arc::default(), meters }
    }

    /// The same places by other limits: who has one keeps it, and is counted.
    #[must_use]
    pub fn by(&self, limits: SeatLimits) -> Self {
        Self { limits: Arc::new(limits), ..self.clone() }
    }

    /// How long a connection waits with everything in hand before it comes to rest.
    pub(super) fn nap(&self) -> Duration {
        let open = self.taken.load(Ordering::Acquire);
        if open < CROWD { NAP } else { SHORT_NAP }
    }

    /// A place among all.
    pub(super) fn take(&self) -> Option<Seat> {
        let room = |taken: usize| (taken < self.limits.connections).then_some(taken + 1);
        if self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, room).is_ok() {
            return Some(Seat { _counted: Counted::new(&self.taken, &self.meters), client: None });
        }
        self.meters.connections_refused.inc();
        None
    }

    /// A place among those of this client as well.
    pub(super) fn take_for(&self, mut seat: Seat, client: IpAddr) -> Option<Seat> {
        let ip = client.to_canonical();
        if self.limits.unlimited.iter().any(|network| network.contains(&ip)) {
            return Some(seat);
        }
        let network = network(ip);
        {
            let mut clients = self.clients();
            let taken = clients.entry(network).or_insert(0);
            if *taken >= self.limits.per_client {
                self.meters.connections_refused.inc();
                return None;
            }
            *taken += 1;
        }
        seat.client = Some(ClientSeat { seats: self.clone(), network });
        Some(seat)
    }

    fn clients(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an address counts as: an IPv6 client has a whole /64.
fn network(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & (u128::MAX << 64)).into()),
    }
}

#[derive(Debug)]
struct ClientSeat {
    seats: Seats,
    network: IpAddr,
}

impl Drop for ClientSeat {
    fn drop(&mut self) {
        let mut clients = self.seats.clients();
        match clients.get_mut(&self.network) {
            Some(taken) if *taken > 1 => *taken -= 1,
            Some(_) | None => drop(clients.remove(&self.network)),
        }
    }
}

/// A connection that is counted as open for as long as this lives, whatever ends it.
#[derive(Debug)]
struct Counted {
    taken: Arc<AtomicUsize>,
    meters: Arc<Meters>,
}

impl Counted {
    fn new(taken: &Arc<AtomicUsize>, meters: &Arc<Meters>) -> Self {
        meters.connections.inc();
        Self { taken: Arc::clone(taken), meters: Arc::clone(meters) }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.taken.fetch_sub(1, Ordering::AcqRel);
        self.meters.connections.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seats(connections: usize, per_client: usize, unlimited: &[&str]) -> Seats {
        let unlimited = unlimited.iter().map(|n| n.parse().expect("a network")).collect();
        Seats::new(SeatLimits { connections, per_client, unlimited }, Arc::new(Meters::new()))
    }

    fn sit(seats: &Seats, ip: &str) -> Option<Seat> {
        seats.take_for(seats.take()?, ip.parse().expect("an address"))
    }

    #[test]
    fn so_many_in_all_and_for_each_client() {
        let seats = seats(4, 2, &[]);
        let one = (sit(&seats, "10.0.0.1").expect("a seat"), sit(&seats, "::ffff:10.0.0.1").expect("a seat"));
        assert!(sit(&seats, "10.0.0.1").is_none());
        let other = (sit(&seats, "10.0.0.2").expect("a seat"), sit(&seats, "10.0.0.3").expect("a seat"));
        assert!(sit(&seats, "10.0.0.4").is_none(), "the house is full");
        assert_eq!(seats.meters.connections_refused.get(), 2);
        drop((one, other));
        assert!(sit(&seats, "10.0.0.1").is_some());
        assert_eq!(
            (seats.clients().len(), seats.meters.connections.get()),
            (0, 0),
            "nothing is left of them"
        );
    }

    #[test]
    fn other_limits_count_those_who_are_there_already() {
        let seats = seats(4, 4, &[]);
        let _there = (sit(&seats, "10.0.0.1"), sit(&seats, "10.0.0.1"), sit(&seats, "10.0.0.2"));
        let limits = |connections, per_client| SeatLimits { connections, per_client, unlimited: Vec::new() };
        assert!(sit(&seats.by(limits(3, 4)), "10.0.0.3").is_none());
        assert!(sit(&seats.by(limits(9, 2)), "10.0.0.1").is_none());
        let more = seats.by(limits(5, 3));
        let _next = (sit(&more, "10.0.0.1").expect("a seat"), sit(&seats.by(limits(9, 9)), "10.0.0.9"));
        assert!(sit(&more, "10.0.0.4").is_none(), "five are there, whoever let them in");
    }

    #[test]
    fn an_ipv6_client_is_its_network_and_proxies_are_not_limited() {
        let seats = seats(9, 1, &["10.0.0.0/8"]);
        let _one = sit(&seats, "2001:db8::1").expect("a seat");
        assert!(sit(&seats, "2001:db8::2").is_none());
        let _other = sit(&seats, "2001:db8:0:1::1").expect("another network");
        let _proxy = (sit(&seats, "10.0.0.1").expect("a seat"), sit(&seats, "10.0.0.1").expect("a seat"));
    }
}
