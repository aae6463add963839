//! The share in Redis or Valkey (6.2 or later).
//! In: keys and records. Out: what stands. Errors: [`Away`]. I/O: Redis.
//!
//! | key | what |
//! | --- | --- |
//! | `doorkeep:{PART}:KEY:c` | the claim: `c` or `s` for its phase, then its owner; ends with its lease |
//! | `doorkeep:{PART}:KEY:a` | the record |
//! | `doorkeep:{PART}:KEY:w` | somebody waits for the flight to land |
//! | `doorkeep:{PART}:KEY:n` | the key whose record issued the pair that KEY names |
//! | `doorkeep:{PART}:mark` | a name for what the part holds, the primary that held it last, and since when |
//! | `doorkeep:{BUS}:landed`, `…:ends` | streams: flights that landed, sessions that were signed out |
//!
//! KEY is a keyed digest, in base64url; BUS begins one too, so deployments with different secrets never meet. What is atomic
//! is a script over the keys of one hash slot. PART is BUS and a number: a Cluster has many parts, all others have one.
//!
//! Each claim looks at the mark of its part in the same step. A mark that is gone says that the part was emptied, another
//! primary that it was restarted or failed over: what was written last may be missing. Then, and after each connection that was
//! lost, nothing is presented for a moment, in which owners take back their claims, and replicas tell again what they remember.

mod scripts;

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use redis::cluster_routing::{Route, RoutingInfo, SingleNodeRoutingInfo, Slot, SlotAddr};
use redis::streams::{StreamId, StreamReadReply};
use redis::{Cmd, FromRedisValue, RedisError, ScriptInvocation, Value};
use tokio::sync::Notify;

use crate::clock::{Deadline, UnixTime};
use crate::outcome::SessionKey;
use crate::share::link::{Connection, Kind, Link, LinkError, Servers};
use crate::share::redis::scripts::{CLAIM, EXTEND, MARK, RELEASE, REVIVE, SENT_NOW, SHORTEN, STORE};
use crate::share::{
    Away, Claim, Event, Gap, Keeping, Op, Owner, Position, Record, Share, Standing, Stands, Stored,
};

/// How long one answer of the store may take.
const LIMIT: Duration = Duration::from_secs(1);

/// How long a reader of the streams waits for news.
const NEWS: Duration = Duration::from_secs(2);

/// A claim that nothing was presented under ends soon after its owner.
const CLAIMED: Duration = Duration::from_secs(3);

/// A claim that was presented under: an owner that pauses for less than this is not overtaken.
const SENT: Duration = Duration::from_secs(15);

/// After a restart or a fail-over, how long claims that went with it may be taken back by their owners.
const SETTLE: Duration = Duration::from_secs(2);

/// Parts of a Cluster: each is on one of its shards, and notices for itself what happens to that.
const PARTS: u8 = 32;

/// How long replicas of the store may take to have what was written. All who use the connection wait meanwhile.
const ACK: Duration = Duration::from_millis(100);

/// After too few replicas had it, how long nothing is written that has to be there.
const SHORT: Duration = Duration::from_secs(3);

/// How long a wish to be told of a landing is kept.
const WAITED: Duration = Duration::from_secs(10);

/// Most sign-outs that a replica which was away can catch up on.
const ENDS: usize = 200_000;

/// Most landings kept: whoever missed one asks again by itself.
const LANDED: usize = 10_000;

/// Most events of a stream in one answer.
const SOME: usize = 1000;

/// Characters of the bus in keys.
const BUS: usize = 12;

/// Longest chain that a confirmation follows.
const LINKS: usize = 8;

/// What was seen of a part of the store.
#[derive(Clone, Debug)]
struct Seen {
    /// Its mark; empty: not seen yet.
    mark: String,
    /// The connection that it was last seen by.
    number: u64,
    /// From when on a claim that is not there was never made.
    trusted_from: Deadline,
    /// Until when too few replicas of the store are there.
    short_until: Deadline,
}

/// The share in Redis.
#[derive(Debug)]
pub struct RedisShare {
    link: Link,
    /// For reading the streams: such a read waits, so it has a connection of its own.
    news: Link,
    bus: String,
    parts: Mutex<Vec<Seen>>,
    /// The number of the connection that reads the streams.
    reading: AtomicU64,
    gap: Mutex<Option<Gap>>,
    stirred: Notify,
    /// Replicas of the store that have to have taken a claim before it counts; 0: none.
    acks: u32,
}

impl RedisShare {
    /// A share in these servers. `bus`: what all replicas of a deployment derive from their secret.
    ///
    /// # Errors
    /// [`LinkError`] where an address cannot be used.
    pub fn new(servers: &Servers, bus: SessionKey, acks: u32) -> Result<Self, LinkError> {
        let parts = if servers.kind == Kind::Cluster { PARTS } else { 1 };
        let unseen = Seen {
            mark: String::new(),
            number: 0,
            trusted_from: Deadline::after(SETTLE),
            short_until: Deadline::after(Duration::ZERO),
        };
        Ok(Self {
            link: Link::new(servers, LIMIT)?,
            news: Link::new(servers, LIMIT + NEWS)?,
            bus: name(bus).chars().take(BUS).collect(),
            parts: Mutex::new(vec![unseen; usize::from(parts)]),
            reading: AtomicU64::new(0),
            gap: Mutex::new(None),
            stirred: Notify::new(),
            acks,
        })
    }

    fn parts(&self) -> MutexGuard<'_, Vec<Seen>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn part(&self, key: SessionKey) -> usize {
        let first = key.0.first().copied().unwrap_or_default();
        let parts = self.parts().len();
        usize::from(first).checked_rem(parts).unwrap_or_default()
    }

    /// The beginning of all keys of a part.
    fn place(&self, part: usize) -> String {
        format!("doorkeep:{{{}.{part}}}", self.bus)
    }

    fn stream(&self, stream: &str) -> String {
        format!("doorkeep:{{{}}}:{stream}", self.bus)
    }

    /// A command that adds to a stream; what is added has to follow.
    fn add(&self, stream: &str, most: usize) -> Cmd {
        let mut add = redis::cmd("XADD");
        add.arg(self.stream(stream)).arg("MAXLEN").arg("~").arg(most).arg("*");
        add
    }

    /// Claim, record, and whether somebody waits.
    fn keys(&self, key: SessionKey) -> [String; 3] {
        let (place, name) = (self.place(self.part(key)), name(key));
        ["c", "a", "w"].map(|kind| format!("{place}:{name}:{kind}"))
    }

    fn came_from(&self, next: SessionKey) -> String {
        format!("{}:{}:n", self.place(self.part(next)), name(next))
    }

    /// Notes the mark of a part, as it was seen over the connection with this number.
    fn see(&self, part: usize, (mark, age): (String, u64), number: u64) {
        let unnamed = mark.ends_with(':');
        // A primary without a name could be another one behind each new connection.
        let mark = if unnamed { format!("{mark}{number}") } else { mark };
        let mut parts = self.parts();
        let Some(seen) = parts.get_mut(part) else { return };
        // Where the store gave no answer for a while, claims may have ended whose owners could not tell what they had presented.
        // They do so now.
        if std::mem::replace(&mut seen.number, number) != number && !seen.mark.is_empty() {
            seen.trusted_from = Deadline::after(SETTLE);
        }
        if seen.mark == mark {
            return;
        }
        let before = std::mem::replace(&mut seen.mark, mark.clone());
        let age = if unnamed && !before.is_empty() { Duration::ZERO } else { Duration::from_millis(age) };
        let settled = Deadline::after(SETTLE.saturating_sub(age));
        seen.trusted_from = if before.is_empty() { settled } else { seen.trusted_from.max(settled) };
        drop(parts);
        if before.is_empty() {
            return;
        }
        let gap = if before.split(':').next() == mark.split(':').next() { Gap::Recent } else { Gap::All };
        let mut noted = self.gap.lock().unwrap_or_else(PoisonError::into_inner);
        *noted = (*noted).max(Some(gap));
        drop(noted);
        self.stirred.notify_one();
    }

    /// Looks at the marks of all parts, so that the age of a new one counts from now.
    async fn look_at_marks(&self) -> Result<(), Away> {
        let count = self.parts().len();
        for part in 0..count {
            let (mut connection, number) = self.link.connection().await?;
            let mark = MARK
                .key(format!("{}:mark", self.place(part)))
                .arg(proposed())
                .invoke_async(&mut connection)
                .await
                .map_err(|error| self.away(number, &error))?;
            self.see(part, mark, number);
        }
        Ok(())
    }

    async fn loses_now(&self) -> Gap {
        loop {
            self.stirred.notified().await;
            // The other parts may have lost something as well: that is told again in one go.
            // The other replicas have to know at once, whose connections may all be well.
            let mut add = self.add("landed", LANDED);
            add.arg("stirred").arg("");
            if self.look_at_marks().await.is_err() || self.ask::<Value>(&add).await.is_err() {
                tracing::debug!("what the replicas' share lost is seen by the other replicas themselves");
            }
            let gap = self.gap.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(gap) = gap {
                return gap;
            }
        }
    }

    async fn run<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, Away> {
        let (mut connection, number) = self.link.connection().await?;
        script.invoke_async(&mut connection).await.map_err(|error| self.away(number, &error))
    }

    /// As [`Self::run`], and what was written under `key` is on as many replicas of the store as there have to be.
    async fn run_for_good<T: FromRedisValue>(
        &self,
        script: &ScriptInvocation<'_>,
        (part, key): (usize, &str),
    ) -> Result<T, Away> {
        let (mut connection, number) = self.link.connection().await?;
        let away = |error: RedisError| self.away(number, &error);
        let done = script.invoke_async(&mut connection).await.map_err(away)?;
        if self.acks == 0 {
            return Ok(done);
        }
        // Over the same connection: it waits for what was written there.
        let taken = wait_for_replicas(&mut connection, key, self.acks).await.map_err(away)?;
        if taken >= self.acks {
            return Ok(done);
        }
        tracing::debug!(taken, "too few replicas of the replicas' share have a claim");
        if let Some(seen) = self.parts().get_mut(part) {
            seen.short_until = Deadline::after(SHORT);
        }
        Err(Away)
    }

    async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Away> {
        let (mut connection, number) = self.link.connection().await?;
        command.query_async(&mut connection).await.map_err(|error| self.away(number, &error))
    }

    fn away(&self, number: u64, error: &RedisError) -> Away {
        self.link.failed(number, error);
        Away
    }

    async fn claim_now(&self, key: SessionKey, owner: Owner, dead: Option<&Record>) -> Result<Claim, Away> {
        let ([claim, record, waited], part) = (self.keys(key), self.part(key));
        let (mut connection, number) = self.link.connection().await?;
        let (said, text, mark, age): (String, String, String, u64) = CLAIM
            .key(claim)
            .key(record)
            .key(waited)
            .key(format!("{}:mark", self.place(part)))
            .arg(owner.to_string())
            .arg(millis(CLAIMED))
            .arg(dead.map(Record::head).unwrap_or_default())
            .arg(millis(WAITED))
            .arg(proposed())
            .invoke_async(&mut connection)
            .await
            .map_err(|error| self.away(number, &error))?;
        self.see(part, (mark, age), number);
        Ok(match said.as_str() {
            "answered" => Claim::Answered(Record::parse(&text).ok_or(Away)?),
            "held" => Claim::Held,
            _ => Claim::Granted(Record::parse(&text)),
        })
    }

    async fn sent_now(
        &self,
        key: SessionKey,
        owner: Owner,
        (doubt, dead): (Option<&Record>, Option<&Record>),
        keep: Duration,
    ) -> Result<Stands, Away> {
        let [claim, record, _] = self.keys(key);
        // An owner whose claim went with the store takes it back within this time.
        let part = self.part(key);
        let seen = self.parts().get(part).cloned().ok_or(Away)?;
        seen.trusted_from.wait().await;
        if !seen.short_until.passed() {
            return Err(Away);
        }
        let done: u8 = self
            .run_for_good(
                SENT_NOW
                    .key(&claim)
                    .key(record)
                    .arg(owner.to_string())
                    .arg(millis(SENT))
                    .arg(doubt.map(Record::text).unwrap_or_default())
                    .arg(millis(keep))
                    .arg(dead.map(Record::head).unwrap_or_default()),
                (part, &claim),
            )
            .await?;
        Ok(stands(done))
    }

    async fn extend_now(
        &self,
        key: SessionKey,
        owner: Owner,
        doubt: Option<&Record>,
        keep: Duration,
    ) -> Result<Stands, Away> {
        let [claim, record, _] = self.keys(key);
        let done: u8 = self
            .run(
                EXTEND
                    .key(claim)
                    .key(record)
                    .arg(owner.to_string())
                    .arg(millis(SENT))
                    .arg(doubt.map(Record::text).unwrap_or_default())
                    .arg(millis(keep)),
            )
            .await?;
        Ok(stands(done))
    }

    async fn store_now(
        &self,
        key: SessionKey,
        owner: Owner,
        record: &Record,
        rest: Keeping<'_>,
    ) -> Result<Stored, Away> {
        let [claim, place, waited] = self.keys(key);
        let keep = millis(rest.keep);
        // Written first: without it a confirmation would not find the record, and the record would only live longer.
        if let Some(next) = rest.next.filter(|next| *next != key) {
            let mut from = redis::cmd("SET");
            from.arg(self.came_from(next)).arg(name(key)).arg("PX").arg(keep);
            self.ask::<Value>(&from).await?;
        }
        let (waited, other): (u8, String) = self
            .run(
                STORE
                    .key(claim)
                    .key(place)
                    .key(waited)
                    .arg(owner.to_string())
                    .arg(record.text())
                    .arg(keep)
                    .arg(rest.dead.map(Record::head).unwrap_or_default()),
            )
            .await?;
        if waited == 1 {
            self.tell_landed(key).await;
        }
        Ok(Record::parse(&other).map_or(Stored::Yes, Stored::Other))
    }

    async fn release_now(
        &self,
        key: SessionKey,
        owner: Owner,
        back_to: Option<&Record>,
        keep: Duration,
    ) -> Result<(), Away> {
        let [claim, record, waited] = self.keys(key);
        let waited: u8 = self
            .run(
                RELEASE
                    .key(claim)
                    .key(record)
                    .key(waited)
                    .arg(owner.to_string())
                    .arg(back_to.map(Record::text).unwrap_or_default())
                    .arg(millis(keep)),
            )
            .await?;
        if waited == 1 {
            self.tell_landed(key).await;
        }
        Ok(())
    }

    /// Those who wait ask again by themselves, so a message that is lost costs them a moment only.
    async fn tell_landed(&self, key: SessionKey) {
        if self.tell_now(&Event::Landed(key)).await.is_err() {
            tracing::debug!("a landing was not told to the other replicas");
        }
    }

    async fn look_now(&self, key: SessionKey) -> Result<Standing, Away> {
        let [claim, record, _] = self.keys(key);
        let mut get = redis::cmd("MGET");
        get.arg(claim).arg(record);
        let (claim, record): (Option<String>, Option<String>) = self.ask(&get).await?;
        Ok(Standing { record: record.as_deref().and_then(Record::parse), claimed: claim.is_some() })
    }

    async fn bury_now(
        &self,
        key: SessionKey,
        record: &Record,
        keep: Duration,
    ) -> Result<Option<Record>, Away> {
        let [_, place, _] = self.keys(key);
        let mut set = redis::cmd("SET");
        set.arg(place).arg(record.text()).arg("PX").arg(millis(keep)).arg("GET");
        let earlier: Option<String> = self.ask(&set).await?;
        Ok(earlier.as_deref().and_then(Record::parse))
    }

    async fn confirm_now(&self, next: SessionKey, keep: Duration) -> Result<(), Away> {
        let mut at = next;
        for _ in 0..LINKS {
            let from: Option<String> = self.ask(redis::cmd("GETDEL").arg(self.came_from(at))).await?;
            let Some(older) = from.as_deref().and_then(parse) else { return Ok(()) };
            let [_, record, _] = self.keys(older);
            let _shortened: i64 = self.run(SHORTEN.key(record).arg(millis(keep))).await?;
            at = older;
        }
        Ok(())
    }

    /// `until`: when the names are over for good; at 0 they are good again.
    async fn announce_now(&self, names: &[SessionKey], until: UnixTime) -> Result<(), Away> {
        let mut add = self.add("ends", ENDS);
        add.arg("names").arg(joined(names)).arg("until").arg(until.as_secs());
        self.ask::<Value>(&add).await.map(drop)
    }

    async fn tell_now(&self, event: &Event) -> Result<(), Away> {
        let (field, text) = match event {
            Event::Landed(key) => ("key", name(*key)),
            Event::Spent(token) => ("spent", name(*token)),
            Event::Refused(names) => ("refused", joined(names)),
            Event::SignedOut(names, until) => return self.announce_now(names, *until).await,
            Event::SignedIn(names) => return self.announce_now(names, UnixTime::from_secs(0)).await,
        };
        let mut add = self.add("landed", LANDED);
        add.arg(field).arg(text);
        self.ask::<Value>(&add).await.map(drop)
    }

    async fn revive_now(&self, key: SessionKey, names: &[SessionKey]) -> Result<(), Away> {
        let [_, record, _] = self.keys(key);
        let _taken_away: u8 = self.run(&REVIVE.key(record)).await?;
        self.announce_now(names, UnixTime::from_secs(0)).await
    }

    async fn listen_now(&self, position: &Position) -> Result<(Vec<Event>, Position), Away> {
        let (landed, ends) = (self.stream("landed"), self.stream("ends"));
        let mut read = redis::cmd("XREAD");
        read.arg("COUNT").arg(SOME);
        if position.begun {
            read.arg("BLOCK").arg(millis(NEWS));
        }
        read.arg("STREAMS").arg(&landed).arg(&ends);
        read.arg(&position.landed).arg(&position.signed_out);
        let (mut connection, number) = self.news.connection().await?;
        let away = |error: RedisError| {
            self.news.failed(number, &error);
            // A primary that pauses may be replaced meanwhile: the other connection must not go on with it afterwards.
            self.link.doubted();
            Away
        };
        if self.reading.load(Ordering::Acquire) != number {
            self.look_at_marks().await?;
            self.reading.store(number, Ordering::Release);
        }
        let reply: Option<StreamReadReply> = read.query_async(&mut connection).await.map_err(away)?;
        let mut position = Position { begun: true, caught_up: true, ..position.clone() };
        let (mut events, mut stirred) = (Vec::new(), false);
        for stream in reply.map(|reply| reply.keys).unwrap_or_default() {
            let place = if stream.key == ends { &mut position.signed_out } else { &mut position.landed };
            if let Some(last) = stream.ids.last() {
                place.clone_from(&last.id);
            }
            position.caught_up &= stream.ids.len() < SOME;
            stirred |= stream.ids.iter().any(|entry| entry.contains_key("stirred"));
            events.extend(stream.ids.iter().filter_map(event));
        }
        if stirred {
            self.look_at_marks().await?;
        }
        Ok((events, position))
    }
}

impl Share for RedisShare {
    fn claim<'a>(&'a self, key: SessionKey, owner: Owner, dead: Option<&'a Record>) -> Op<'a, Claim> {
        Box::pin(self.claim_now(key, owner, dead))
    }

    fn sent<'a>(
        &'a self,
        key: SessionKey,
        owner: Owner,
        records: (Option<&'a Record>, Option<&'a Record>),
        keep: Duration,
    ) -> Op<'a, Stands> {
        Box::pin(self.sent_now(key, owner, records, keep))
    }

    fn extend<'a>(
        &'a self,
        key: SessionKey,
        owner: Owner,
        doubt: Option<&'a Record>,
        keep: Duration,
    ) -> Op<'a, Stands> {
        Box::pin(self.extend_now(key, owner, doubt, keep))
    }

    fn store<'a>(
        &'a self,
        key: SessionKey,
        owner: Owner,
        record: &'a Record,
        rest: Keeping<'a>,
    ) -> Op<'a, Stored> {
        Box::pin(self.store_now(key, owner, record, rest))
    }

    fn release<'a>(
        &'a self,
        key: SessionKey,
        owner: Owner,
        back_to: Option<&'a Record>,
        keep: Duration,
    ) -> Op<'a, ()> {
        Box::pin(self.release_now(key, owner, back_to, keep))
    }

    fn look(&self, key: SessionKey) -> Op<'_, Standing> {
        Box::pin(self.look_now(key))
    }

    fn bury<'a>(&'a self, key: SessionKey, record: &'a Record, keep: Duration) -> Op<'a, Option<Record>> {
        Box::pin(self.bury_now(key, record, keep))
    }

    fn confirm(&self, next: SessionKey, keep: Duration) -> Op<'_, ()> {
        Box::pin(self.confirm_now(next, keep))
    }

    fn announce<'a>(&'a self, names: &'a [SessionKey], until: UnixTime) -> Op<'a, ()> {
        Box::pin(self.announce_now(names, until))
    }

    fn tell<'a>(&'a self, event: &'a Event) -> Op<'a, ()> {
        Box::pin(self.tell_now(event))
    }

    fn revive<'a>(&'a self, key: SessionKey, names: &'a [SessionKey]) -> Op<'a, ()> {
        Box::pin(self.revive_now(key, names))
    }

    fn loses(&self) -> Pin<Box<dyn Future<Output = Gap> + Send + '_>> {
        Box::pin(self.loses_now())
    }

    fn listen<'a>(&'a self, position: &'a Position) -> Op<'a, (Vec<Event>, Position)> {
        Box::pin(self.listen_now(position))
    }
}

fn event(entry: &StreamId) -> Option<Event> {
    let text = |field: &str| entry.get::<String>(field);
    if let Some(key) = text("key") {
        return parse(&key).map(Event::Landed);
    }
    if let Some(name) = text("spent") {
        return parse(&name).map(Event::Spent);
    }
    let apart = |names: String| names.split(' ').filter_map(parse).collect();
    if let Some(names) = text("refused") {
        return Some(Event::Refused(apart(names)));
    }
    let names = apart(text("names")?);
    match entry.get("until")? {
        0 => Some(Event::SignedIn(names)),
        until => Some(Event::SignedOut(names, UnixTime::from_secs(until))),
    }
}

const fn stands(done: u8) -> Stands {
    if done == 1 { Stands::Yes } else { Stands::No }
}

fn name(key: SessionKey) -> String {
    URL_SAFE_NO_PAD.encode(key.0)
}

fn joined(names: &[SessionKey]) -> String {
    names.iter().map(|one| name(*one)).collect::<Vec<_>>().join(" ")
}

fn parse(text: &str) -> Option<SessionKey> {
    URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok().map(SessionKey)
}

/// A name for a part that has none.
fn proposed() -> String {
    format!("{:016x}", fastrand::u64(1..))
}

/// How many of the store's own replicas have what was written last (Redis: WAIT): a fail-over does not lose it there.
async fn wait_for_replicas(connection: &mut Connection, key: &str, acks: u32) -> Result<u32, RedisError> {
    let mut wait = redis::cmd("WAIT");
    wait.arg(acks).arg(millis(ACK));
    match connection {
        Connection::Plain(one) => wait.query_async(one).await,
        Connection::Cluster(many) => {
            let route = Route::with_slot(Slot::for_key(key), SlotAddr::Master);
            let node = RoutingInfo::SingleNode(SingleNodeRoutingInfo::SpecificNode(route));
            let reply = many.route_command(wait, node).await?;
            redis::from_redis_value(reply).map_err(RedisError::from)
        }
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX >> 12).clamp(1, u64::MAX >> 12)
}
