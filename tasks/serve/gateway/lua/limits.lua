-- How much a client may ask: requests and tokens a minute, each in a bucket that refills evenly; and, since it sees
-- streams pass anyway, when their first event came; and when a line that has no engine is expected back.
--
-- The route's filter context maps `client:NAME` and `line:NAME` to {requests, tokens} a minute, 0 for no limit. What
-- a client's own record says goes for all lines together; else what the line says goes for each client of it. A line
-- has `back_at` too, in seconds since the epoch, 0 where that is not known.
-- A request costs 1 before it passes. Tokens are known afterwards only, so that a bucket may fall below zero; then
-- nothing passes until it has refilled.

local SPACE = "weighbridge"
local LONGEST_NAME = 256
local SOONEST_RETRY = 5 -- seconds, for a line that takes longer to come back than was thought
local BYTES_PER_TOKEN = 4 -- of a prompt whose tokens no engine told: about that of English text

local buckets = {}

local function bucket(name, per_minute, now_ms)
  local one = buckets[name]
  if one == nil or one.per_minute ~= per_minute then
    one = { left = per_minute, at_ms = now_ms, per_minute = per_minute }
    buckets[name] = one
  end
  one.left = math.min(per_minute, one.left + (now_ms - one.at_ms) * per_minute / 60000)
  one.at_ms = now_ms
  return one
end

local function find(handle, what, line, client, now_ms)
  local context = handle:filterContext()
  local own, lines = context:get("client:" .. client), context:get("line:" .. line)
  if own and own[what] > 0 then
    return bucket(what .. " " .. client, own[what], now_ms)
  elseif lines and lines[what] > 0 then
    return bucket(what .. " " .. client .. " " .. line, lines[what], now_ms)
  end
end

-- Seconds until `needed` is there again.
local function wait(one, needed)
  return one and math.max(0, math.ceil((needed - one.left) * 60 / one.per_minute)) or 0
end

local function refuse(handle, what, one, seconds)
  local message = ("Limit reached: %d %s a minute. Try again in %d s."):format(one.per_minute, what, seconds)
  local body = '{"error":{"message":"' .. message
    .. '","type":"rate_limit_error","code":"rate_limit_exceeded","param":null}}'
  local headers = { [":status"] = "429", ["content-type"] = "application/json", ["retry-after"] = tostring(seconds) }
  handle:respond(headers, body)
end

-- A conversation is named by a header or in the body; routes look at headers only, and Envoy looks at them again when
-- a script has changed one.
local function name_conversation(handle, headers)
  local read = handle:streamInfo():dynamicMetadata():get(SPACE)
  if read and read.conversation and not headers:get("x-conversation-id") then
    -- Nothing that a client writes may end a header and begin another.
    local name = tostring(read.conversation):sub(1, LONGEST_NAME):gsub("[^%w._-]", "_")
    headers:add("x-conversation-id", name)
  end
end

function envoy_on_request(handle)
  local headers = handle:headers()
  name_conversation(handle, headers)
  local line, client = handle:streamInfo():routeName(), headers:get("x-weighbridge-client")
  if line == "" or client == nil then
    return
  end
  local now_ms = handle:timestamp()
  local requests, tokens = find(handle, "requests", line, client, now_ms), find(handle, "tokens", line, client, now_ms)
  local for_requests, for_tokens = wait(requests, 1), wait(tokens, 1)
  if for_requests > 0 and for_requests >= for_tokens then
    refuse(handle, "requests", requests, for_requests)
    return
  elseif for_tokens > 0 then
    refuse(handle, "tokens", tokens, for_tokens)
    return
  end
  if requests then
    requests.left = requests.left - 1
  end
  local facts = handle:streamInfo():dynamicMetadata()
  facts:set(SPACE, "asked_ms", now_ms)
  if tokens then
    facts:set(SPACE, "client", client)
    facts:set(SPACE, "limited_line", line)
    facts:set(SPACE, "prompt_estimate", math.ceil((tonumber(headers:get("content-length")) or 0) / BYTES_PER_TOKEN))
  end
end

-- Engines send the head of a stream at once: only its first event tells that they have begun.
local function note_first_event(handle, asked)
  local first_ms = handle:timestamp() - asked.asked_ms
  handle:streamInfo():dynamicMetadata():set(SPACE, "first_token_ms", first_ms)
end

-- Answered by the gateway itself, while one engine makes room for the next.
local function tell_return(handle)
  local line = handle:filterContext():get("line:" .. handle:streamInfo():routeName())
  if line and line.back_at > 0 and handle:headers():get(":status") == "503" then
    handle:headers():replace("retry-after", tostring(math.max(SOONEST_RETRY, line.back_at - os.time())))
  end
end

-- What a stream costs is told by its last event, if at all, and never to a client that hangs up before.
-- So it is charged as it goes, one token an event, and put right at its end.
function envoy_on_response(handle)
  tell_return(handle)
  local asked = handle:streamInfo():dynamicMetadata():get(SPACE)
  if not asked or not asked.asked_ms then
    return
  end
  local streamed = (handle:headers():get("content-type") or ""):find("text/event-stream", 1, true)
  local tokens = asked.limited_line
    and find(handle, "tokens", asked.limited_line, asked.client, handle:timestamp())
  if not streamed and not tokens then
    return
  end
  local charged = 0
  local function charge(count)
    tokens.left = tokens.left - count
    charged = charged + count
  end
  if streamed and tokens then
    charge(asked.prompt_estimate)
  end
  local first = true
  for chunk in handle:bodyChunks() do
    if streamed and first then
      note_first_event(handle, asked)
      first = false
    end
    if not tokens then
      return
    elseif streamed then
      local _, events = chunk:getBytes(0, chunk:length()):gsub("data: *{", "")
      charge(events)
    end
  end
  -- Asked for again: Envoy takes its objects back whenever a script waits.
  local told = handle:streamInfo():dynamicMetadata():get(SPACE)
  if told.prompt_tokens or told.completion_tokens then
    charge((told.prompt_tokens or 0) + (told.completion_tokens or 0) - charged)
  end
end
