//! What Redis does in one step: scripts over the keys of one hash slot.
//! In: KEYS and ARGV, as each says. Out: what it says. Errors: Redis's. I/O: none here. Times are in milliseconds; a record begins
//! with its kind, and its first 17 characters are its head.

use std::sync::LazyLock;

use redis::Script;

/// The mark of a part, made where there is none: its name, with the primary that holds it, and its age under that one.
/// Where INFO cannot be asked, the primary has no name.
const MARKED: &str = r"
local function marked(key, proposed)
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  local info = redis.pcall('INFO', 'replication')
  local primary = type(info) == 'string' and string.match(info, 'master_replid:(%x+)') or ''
  local name, before, since = string.match(redis.call('GET', key) or '', '^(%x+):(%x*):(%d+)$')
  if not name or before ~= primary then
    name, since = name or proposed, string.format('%.0f', now)
    redis.call('SET', key, name .. ':' .. primary .. ':' .. since)
  end
  return name .. ':' .. primary, math.max(now - tonumber(since), 0)
end
";

/// Claims a key. KEYS: claim, record, wish, mark. ARGV: owner, lease, head of the dead record that is not in the way, how long
/// a wish is kept, a name for a part that has none. Says `granted`, `held` or `answered`; then the record, the mark and its age.
pub(super) static CLAIM: LazyLock<Script> = LazyLock::new(|| {
    let claim = r"
local mark, age = marked(KEYS[4], ARGV[5])
local record = redis.call('GET', KEYS[2])
if record and string.sub(record, 1, 1) ~= 'd' and string.sub(record, 1, 17) ~= ARGV[3] then
  return {'answered', record, mark, age}
end
local claim = redis.call('GET', KEYS[1])
if claim and string.sub(claim, 2) ~= ARGV[1] then
  redis.call('SET', KEYS[3], '1', 'PX', ARGV[4])
  return {'held', '', mark, age}
end
redis.call('SET', KEYS[1], 'c' .. ARGV[1], 'PX', ARGV[2])
return {'granted', record or '', mark, age}";
    Script::new(&format!("{MARKED}{claim}"))
});

/// Looks at a part. KEYS: mark. ARGV: a name for a part that has none. Says the mark and its age.
pub(super) static MARK: LazyLock<Script> =
    LazyLock::new(|| Script::new(&format!("{MARKED}\nreturn {{marked(KEYS[1], ARGV[1])}}")));

/// Marks a claim as presented under. KEYS: claim, record. ARGV: owner, lease, the doubt that is recorded or nothing, how long that is
/// kept, head of the dead record that is not in the way. Says 1, or 0 where the claim does not stand.
pub(super) static SENT_NOW: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local claim = redis.call('GET', KEYS[1])
if not claim or string.sub(claim, 2) ~= ARGV[1] then return 0 end
local record = redis.call('GET', KEYS[2])
if record and string.sub(record, 1, 1) ~= 'd' and string.sub(record, 1, 17) ~= ARGV[5] then return 0 end
if ARGV[3] ~= '' then redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[4]) end
redis.call('SET', KEYS[1], 's' .. ARGV[1], 'PX', ARGV[2])
return 1",
    )
});

/// Prolongs a claim that was presented under, or takes it back. KEYS: claim, record. ARGV: owner, lease, the doubt that is recorded
/// where nothing is, how long that is kept. Says 1, or 0 where another owner has presented.
pub(super) static EXTEND: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local claim = redis.call('GET', KEYS[1])
if claim and string.sub(claim, 2) ~= ARGV[1] and string.sub(claim, 1, 1) == 's' then return 0 end
if ARGV[3] ~= '' and not redis.call('GET', KEYS[2]) then redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[4]) end
redis.call('SET', KEYS[1], 's' .. ARGV[1], 'PX', ARGV[2])
return 1",
    )
});

/// Records a result and ends the claim. KEYS: claim, record, wish. ARGV: owner, record, how long it is kept, head of the dead record that
/// is not in the way. Says whether somebody waits, and the record that stands instead, if one does.
pub(super) static STORE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local claim = redis.call('GET', KEYS[1])
local own = claim and string.sub(claim, 2) == ARGV[1]
local record = redis.call('GET', KEYS[2])
local kind = record and string.sub(record, 1, 1)
local write = true
if record and kind ~= 'd' and string.sub(record, 1, 17) ~= ARGV[4] then
  local tokens = string.sub(ARGV[2], 1, 1) == 'i'
  write = kind ~= 't' and tokens and (own or kind ~= 'i')
end
if write then redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3]) end
if own then redis.call('DEL', KEYS[1]) end
local waited = redis.call('DEL', KEYS[3])
if write then return {waited, ''} end
return {waited, record}",
    )
});

/// Gives a claim up. KEYS: claim, record, wish. ARGV: owner, the record that stood before or nothing, how long that is kept. Says
/// whether somebody waits.
pub(super) static RELEASE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local claim = redis.call('GET', KEYS[1])
if not claim or string.sub(claim, 2) ~= ARGV[1] then return 0 end
local record = redis.call('GET', KEYS[2])
if record and string.sub(record, 1, 1) == 'd' then
  if ARGV[2] == '' then redis.call('DEL', KEYS[2]) else redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3]) end
end
redis.call('DEL', KEYS[1])
return redis.call('DEL', KEYS[3])",
    )
});

/// Lets a record end sooner. KEYS: record. ARGV: how long it is kept at most.
pub(super) static SHORTEN: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
if redis.call('PTTL', KEYS[1]) > tonumber(ARGV[1]) then return redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
return 0",
    )
});

/// Takes away what stands against a session: a tombstone or a refusal. KEYS: record.
pub(super) static REVIVE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local record = redis.call('GET', KEYS[1])
local kind = record and string.sub(record, 1, 1)
if kind == 't' or kind == 'r' then return redis.call('DEL', KEYS[1]) end
return 0",
    )
});
