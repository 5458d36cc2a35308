"""Lua scripts of sessions, which Redis runs atomically.

All keys of one user are in one slot of a cluster, ``att:{<user id>}:…``:

- ``sessions`` and ``expiries``: sorted sets of session ids, by creation and by expiry;
- ``session:<id>``: a session, as times of creation, last use and expiry, the token's SHA-256, and details as JSON,
  separated by spaces.

Times are the server's, in microseconds since 1970; a double holds them exactly until the year 2255. A script's keys are
the two sets, and the session if there is one; ``prefix`` is that of all keys of sessions.
"""

from att.redis.client import Script

ENDED_CHANNEL = "att:sessions"  # announces the ids of ended sessions, as a JSON list
MAX_SESSIONS = 10_000  # of one user, also without a quota
IDS_PER_MESSAGE = 500

_COMMON = f"""
local function clock()
    local time = redis.call('TIME')
    return time[1] * 1000000 + time[2]
end

local function text(number)
    return string.format('%.0f', number)
end

-- Deletes a session; returns the SHA-256 of its token, or nil if it is missing.
local function drop(id, key)
    local record = redis.call('GET', key)
    redis.call('ZREM', KEYS[1], id)
    redis.call('ZREM', KEYS[2], id)
    if not record then
        return nil
    end
    redis.call('DEL', key)
    return string.match(record, '^%d+ %d+ %d+ (%x+)')
end

local function drop_expired(prefix)
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', text(clock()), 'LIMIT', 0, 1000)) do
        drop(id, prefix .. id)
    end
end

local function keep(id, key, record, now, expires)
    local remaining = math.ceil((expires - now) / 1000)
    redis.call('SET', key, record, 'PX', remaining)
    redis.call('ZADD', KEYS[2], text(expires), id)
    for index = 1, 2 do
        if redis.call('PTTL', KEYS[index]) < remaining then
            redis.call('PEXPIRE', KEYS[index], remaining)
        end
    end
end

local function announce(ids)
    for first = 1, #ids, {IDS_PER_MESSAGE} do
        local part = {{}}
        for index = first, math.min(first + {IDS_PER_MESSAGE} - 1, #ids) do
            part[#part + 1] = ids[index]
        end
        redis.call('PUBLISH', '{ENDED_CHANNEL}', cjson.encode(part))
    end
end
"""

# Arguments: id, prefix, time to live, the token's SHA-256, details, and the most sessions that the user may have.
# Returns the expiry, and the ids of ended sessions and their tokens' SHA-256, alternating.
CREATE = Script(
    _COMMON
    + """
local id, prefix, ttl, token, details, limit = unpack(ARGV)
drop_expired(prefix)
local surplus = redis.call('ZCARD', KEYS[1]) - limit
local reply = {''}
if surplus >= 0 then
    local ended = redis.call('ZRANGE', KEYS[1], 0, surplus)
    for _, other in ipairs(ended) do
        local digest = drop(other, prefix .. other)
        if digest then
            reply[#reply + 1] = other
            reply[#reply + 1] = digest
        end
    end
    announce(ended)
end
local now = clock()
local expires = now + ttl
redis.call('ZADD', KEYS[1], text(now), id)
keep(id, KEYS[3], table.concat({text(now), text(now), text(expires), token, details}, ' '), now, expires)
reply[1] = text(expires)
return reply
"""
)

# Arguments: id, time to live, and the age of the last use from which to prolong. Returns the expiry, and 1 if
# prolonged; nothing if the session is missing.
FIND = Script(
    _COMMON
    + """
local id, ttl, slack = unpack(ARGV)
local record = redis.call('GET', KEYS[3])
if not record then
    return nil
end
local created, seen, expires, rest = string.match(record, '^(%d+) (%d+) (%d+) (.*)$')
local now = clock()
if now - seen <= tonumber(slack) then
    return {expires, 0}
end
expires = text(now + ttl)
keep(id, KEYS[3], table.concat({created, text(now), expires, rest}, ' '), now, now + ttl)
return {expires, 1}
"""
)

# Argument: id. Returns the token's SHA-256; nothing if the session is missing.
END = Script(
    _COMMON
    + """
local token = drop(ARGV[1], KEYS[3])
if token then
    announce({ARGV[1]})
end
return token
"""
)

# Arguments: prefix, and optionally the id to keep. Returns ids and their tokens' SHA-256, alternating.
END_ALL = Script(
    _COMMON
    + """
local prefix, kept = unpack(ARGV)
local ids, ended = {}, {}
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
    local token = id ~= kept and drop(id, prefix .. id)
    if token then
        ids[#ids + 1] = id
        ended[#ended + 1] = id
        ended[#ended + 1] = token
    end
end
announce(ids)
return ended
"""
)

# Arguments: prefix and limit; optionally the creation time and id of the last session of the previous page. Returns ids
# and sessions, alternating, newest first.
LIST = Script(
    _COMMON
    + """
local prefix, limit, moment, last = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
drop_expired(prefix)
local position = moment and redis.call('ZCOUNT', KEYS[1], '(' .. moment, '+inf') or 0
local found = {}
while #found < 2 * limit do
    local rows = redis.call('ZREVRANGE', KEYS[1], position, position + limit - 1, 'WITHSCORES')
    if #rows == 0 then
        break
    end
    position = position + limit
    for row = 1, #rows, 2 do
        local id = rows[row]
        local is_before = moment and tonumber(rows[row + 1]) == tonumber(moment) and id >= last
        local record = #found < 2 * limit and not is_before and redis.call('GET', prefix .. id)
        if record then
            found[#found + 1] = id
            found[#found + 1] = record
        end
    end
end
return found
"""
)

# Uses two keys of its own and every command of the other scripts, so that a missing permission shows at the start.
TRIAL_KEYS = ("att:{trial}", "att:{trial}:set")
TRIAL = Script(
    f"""
redis.call('TIME')
redis.call('SET', KEYS[1], 1, 'PX', 1000)
redis.call('GET', KEYS[1])
redis.call('INCRBY', KEYS[1], 1)
redis.call('EXPIRE', KEYS[1], 1)
redis.call('PEXPIRE', KEYS[1], 1000)
redis.call('PTTL', KEYS[1])
redis.call('ZADD', KEYS[2], 1, 'x')
redis.call('ZCARD', KEYS[2])
redis.call('ZCOUNT', KEYS[2], 1, 2)
redis.call('ZRANGE', KEYS[2], 0, 1)
redis.call('ZRANGEBYSCORE', KEYS[2], 1, 2)
redis.call('ZREVRANGE', KEYS[2], 0, 1)
redis.call('ZREM', KEYS[2], 'x')
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('PUBLISH', '{ENDED_CHANNEL}', '[]')
"""
)
