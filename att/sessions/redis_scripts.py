"""The steps that Redis takes as one, in Lua: others see what is before or after it.

Of one user everything is in one slot of a cluster, ``att:{<user id>}:…``:

- ``sessions`` and ``expiries``, sorted sets of the ids of sessions by when they were begun and by when they expire;
- ``session:<id>``, the session itself: when it was begun, seen, and expires, the token's SHA-256, and details as JSON,
  separated by spaces.

Times are the server's, in microseconds since 1970, as a double holds them exactly until the year 2255. Where keys are
given they are the two sets and, of one session, the session; of all of them, ``prefix`` is that of their keys.
"""

from att.redis.client import Script

ENDED_CHANNEL = "att:sessions"  # on which each step that ends sessions tells their ids, as a JSON list
MOST_SESSIONS = 10_000  # of one user; the next one ends the one that would expire first
TOLD_AT_ONCE = 500  # ids in one message

_COMMON = f"""
local function clock()
    local time = redis.call('TIME')
    return time[1] * 1000000 + time[2]
end

local function text(number)
    return string.format('%.0f', number)
end

-- Removes a session; the SHA-256 of its token if it was there.
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
    local left = math.ceil((expires - now) / 1000)
    redis.call('SET', key, record, 'PX', left)
    redis.call('ZADD', KEYS[2], text(expires), id)
    for place = 1, 2 do
        if redis.call('PTTL', KEYS[place]) < left then
            redis.call('PEXPIRE', KEYS[place], left)
        end
    end
end

local function tell(ids)
    for first = 1, #ids, {TOLD_AT_ONCE} do
        local part = {{}}
        for place = first, math.min(first + {TOLD_AT_ONCE} - 1, #ids) do
            part[#part + 1] = ids[place]
        end
        redis.call('PUBLISH', '{ENDED_CHANNEL}', cjson.encode(part))
    end
end
"""

# The session's key; then its id, prefix, time to live, token's SHA-256, details. When it expires.
CREATE = Script(
    _COMMON
    + f"""
local id, prefix, ttl, token, details = unpack(ARGV)
drop_expired(prefix)
local crowd = redis.call('ZCARD', KEYS[2]) - {MOST_SESSIONS}
if crowd >= 0 then
    local ended = redis.call('ZRANGE', KEYS[2], 0, crowd)
    for _, other in ipairs(ended) do
        drop(other, prefix .. other)
    end
    tell(ended)
end
local now = clock()
local expires = now + ttl
redis.call('ZADD', KEYS[1], text(now), id)
keep(id, KEYS[3], table.concat({{text(now), text(now), text(expires), token, details}}, ' '), now, expires)
return text(expires)
"""
)

# The session's key; then its id, time to live, and how long ago it may have been seen to be left as it is. When it
# expires, and 1 if that was moved; nothing when it is not there.
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

# The session's key; then its id. Its token's SHA-256; nothing when it was not there.
END = Script(
    _COMMON
    + """
local token = drop(ARGV[1], KEYS[3])
if token then
    tell({ARGV[1]})
end
return token
"""
)

# The prefix, and the id of the one to keep or nothing. Ids and their tokens' SHA-256, by turns.
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
tell(ids)
return ended
"""
)

# The prefix and how many; then when the last one of the page before was begun, and its id, or nothing. Ids and sessions
# by turns, newest first.
LIST = Script(
    _COMMON
    + """
local prefix, limit, moment, last = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
drop_expired(prefix)
local place = moment and redis.call('ZCOUNT', KEYS[1], '(' .. moment, '+inf') or 0
local found = {}
while #found < 2 * limit do
    local rows = redis.call('ZREVRANGE', KEYS[1], place, place + limit - 1, 'WITHSCORES')
    if #rows == 0 then
        break
    end
    place = place + limit
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

# Two keys of its own. Each command that a step or a count uses, so that a right that is missing is found at the start.
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
