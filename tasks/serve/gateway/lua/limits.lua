-- Rate limits of a client: requests and tokens a minute, each a token bucket. The script also sets Retry-After while a
-- line has no engine.
--
-- The route's filter context maps `client:NAME` and `line:NAME` to {requests, tokens} a minute, 0 for no limit, and
-- `paths` to how each path is counted (tasks/engines/NAME_endpoints.yaml), by usage where it says nothing. A client's own limit covers all lines together; without one, the line's limit applies to each of its clients. A line
-- also has `back_at` in seconds since the epoch, 0 if unknown.
-- A request costs 1 in advance. Its tokens are known only afterwards, so a bucket may fall below zero; the client's
-- requests are then refused until it has refilled. Until they are known, an estimate is charged: of the prompt while its
-- bytes pass, whatever `content-length` says, and of the answer while it passes. So nothing is free for a client that
-- leaves, or that sends the next request before this one is answered.

local SPACE = "weighbridge"
local LONGEST_NAME = 256
local SOONEST_RETRY = 5 -- seconds, for a line whose engine starts later than expected
local BYTES_PER_TOKEN = 4 -- estimate where a token count is not reported; about that of English text
local BYTES_PER_AUDIO_TOKEN = 320 -- of a recording: compressed sound has about 16 KB a second, Whisper 50 tokens

local buckets = {}

local function bucket(name, per_minute, now_ms)
  local found = buckets[name]
  if found == nil or found.per_minute ~= per_minute then
    found = { left = per_minute, at_ms = now_ms, per_minute = per_minute }
    buckets[name] = found
  end
  found.left = math.min(per_minute, found.left + (now_ms - found.at_ms) * per_minute / 60000)
  found.at_ms = now_ms
  return found
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

-- Seconds until the bucket holds `needed`.
local function wait(limit, needed)
  return limit and math.max(0, math.ceil((needed - limit.left) * 60 / limit.per_minute)) or 0
end

local function how_counted(handle, path)
  local paths = handle:filterContext():get("paths") or {}
  path = (path or ""):match("^[^?]*")
  return paths[path] or paths[path:match("^/[^/]+(/v1/.*)$")] or "usage"
end

-- The headers of OpenAI's API, by which clients slow down before they are refused.
local function tell(headers, what, limit)
  if limit then
    local left = math.max(0, math.floor(limit.left))
    headers["x-ratelimit-limit-" .. what] = tostring(limit.per_minute)
    headers["x-ratelimit-remaining-" .. what] = tostring(left)
    headers["x-ratelimit-reset-" .. what] = math.ceil((limit.per_minute - limit.left) * 60 / limit.per_minute) .. "s"
  end
end

local function refuse(handle, what, limit, seconds, requests, tokens)
  local message = ("Limit reached: %d %s a minute. Try again in %d s."):format(limit.per_minute, what, seconds)
  local body = '{"error":{"message":"' .. message
    .. '","type":"rate_limit_error","code":"rate_limit_exceeded","param":null}}'
  local headers = { [":status"] = "429", ["content-type"] = "application/json", ["retry-after"] = tostring(seconds) }
  tell(headers, "requests", requests)
  tell(headers, "tokens", tokens)
  handle:respond(headers, body)
end

-- A conversation is named by a header or in the body. Routes match headers only; Envoy matches again after a script
-- changes a header.
local function name_conversation(handle, headers)
  local read = handle:streamInfo():dynamicMetadata():get(SPACE)
  if read and read.conversation and not headers:get("x-conversation-id") then
    -- Replace every character by which a client could inject another header.
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
    refuse(handle, "requests", requests, for_requests, requests, tokens)
    return
  elseif for_tokens > 0 then
    refuse(handle, "tokens", tokens, for_tokens, requests, tokens)
    return
  end
  if requests then
    requests.left = requests.left - 1
  end
  if not requests and not tokens then
    return
  end
  local counted = how_counted(handle, headers:get(":path"))
  local metadata = handle:streamInfo():dynamicMetadata()
  metadata:set(SPACE, "client", client)
  metadata:set(SPACE, "limited_line", line)
  metadata:set(SPACE, "counted", counted)
  if tokens and counted ~= "request" then
    local bytes, estimate = 0, 0
    local per_token = counted == "audio" and BYTES_PER_AUDIO_TOKEN or BYTES_PER_TOKEN
    for chunk in handle:bodyChunks() do
      bytes = bytes + chunk:length()
      tokens.left = tokens.left - math.ceil(bytes / per_token) + estimate
      estimate = math.ceil(bytes / per_token)
      -- Envoy invalidates objects when a script yields.
      handle:streamInfo():dynamicMetadata():set(SPACE, "prompt_estimate", estimate)
    end
  end
end

-- Set Retry-After on the gateway's own 503 while engines are swapped.
local function set_retry_after(handle)
  local line = handle:filterContext():get("line:" .. handle:streamInfo():routeName())
  if line and line.back_at > 0 and handle:headers():get(":status") == "503" then
    handle:headers():replace("retry-after", tostring(math.max(SOONEST_RETRY, line.back_at - os.time())))
  end
end

-- A stream reports its tokens in its last event, if at all, which a client that disconnects early never reaches. So each
-- event is charged one token while it passes, other answers by their bytes, and the charge is corrected at the end.
function envoy_on_response(handle)
  set_retry_after(handle)
  local asked = handle:streamInfo():dynamicMetadata():get(SPACE)
  if not asked or not asked.limited_line then
    return
  end
  local now_ms = handle:timestamp()
  local requests = find(handle, "requests", asked.limited_line, asked.client, now_ms)
  local tokens = find(handle, "tokens", asked.limited_line, asked.client, now_ms)
  local told, headers = {}, handle:headers()
  tell(told, "requests", requests)
  tell(told, "tokens", tokens)
  for name, value in pairs(told) do
    headers:replace(name, value)
  end
  if not tokens or asked.counted == "request" then
    return
  end
  local estimate, charged = asked.prompt_estimate or 0, 0
  local function charge(count)
    tokens.left = tokens.left - count
    charged = charged + count
  end
  if not (headers:get(":status") or ""):find("^2") then
    -- Nothing was computed, or it failed.
    tokens.left = tokens.left + estimate
    return
  end
  -- An engine that packs its answer unasked tells no tokens that could be read: each byte of it counts as one.
  local packed = (headers:get("content-encoding") or "identity") ~= "identity"
  local streamed = not packed and (headers:get("content-type") or ""):find("text/event-stream", 1, true)
  local bytes, per_token = 0, packed and 1 or BYTES_PER_TOKEN
  for chunk in handle:bodyChunks() do
    if streamed then
      local _, events = chunk:getBytes(0, chunk:length()):gsub("data: *{", "")
      charge(events)
    elseif asked.counted ~= "prompt" then
      bytes = bytes + chunk:length()
      charge(math.ceil(bytes / per_token) - charged)
    end
  end
  -- Fetch the metadata again: Envoy invalidates objects when a script yields.
  local usage = handle:streamInfo():dynamicMetadata():get(SPACE)
  if usage.prompt_tokens then
    charge(usage.prompt_tokens - estimate)
  end
  if usage.prompt_tokens or usage.completion_tokens then
    local computed = charged - (usage.prompt_tokens and usage.prompt_tokens - estimate or 0)
    charge((usage.completion_tokens or (streamed and computed or 0)) - computed)
  end
end
