-- What an engine's 200 is worth: the time of its first token, and the first fault that its text shows.
--
-- Engines send a stream's head long before anything is generated, so errors come as events inside a 200, and the head's
-- time says nothing. Sets `first_token_ms`, `fault` and `conversation_id` of the request's metadata, for the log.
-- Faults: error_event, broken_json, aborted, no_choices, tool_call_cut, no_finish, no_done.

local SPACE = "weighbridge"
local LONGEST_BYTES = 2 ^ 20 -- of an event or a whole answer that is read; a larger one is not judged
local DEEPEST = 64
local FORMS = { -- by the end of the path
  { "/chat/completions$", "choices" },
  { "/completions$", "choices" },
  { "/responses$", "response" },
  { "/messages$", "message" },
}
local ENDS = { -- types of events that end a stream as it should; `incomplete` is the client's own limit of tokens
  ["response.completed"] = true,
  ["response.incomplete"] = true,
  ["message_stop"] = true,
}
local NULL = {}

-- A JSON reader, since Envoy's Lua has none: nil for text that is no JSON.

local ESCAPES = { b = "\b", f = "\f", n = "\n", r = "\r", t = "\t" }

local function unescape(sign, rest)
  return (ESCAPES[sign] or (sign == "u" and "?") or sign) .. rest
end

local function read_string(text, at) -- `at`: after the opening quote
  local start = at
  local escaped = false
  while true do
    local found = text:find('["\\]', at)
    if not found then
      return nil
    elseif text:byte(found) == 34 then
      local value = text:sub(start, found - 1)
      return escaped and value:gsub("\\(.)([^\\]*)", unescape) or value, found + 1
    end
    escaped, at = true, found + 2
  end
end

local read_value

local function read_list(text, at, depth)
  local list = {}
  at = text:find("%S", at)
  if at and text:byte(at) == 93 then
    return list, at + 1
  end
  while at do
    local value
    value, at = read_value(text, at, depth)
    if value == nil then
      return nil
    end
    list[#list + 1] = value
    local place, sign = text:match("^%s*()([,%]])", at)
    if sign == "]" then
      return list, place + 1
    end
    at = place and place + 1
  end
end

local function read_object(text, at, depth)
  local object = {}
  local place = text:match("^%s*()}", at)
  if place then
    return object, place + 1
  end
  while true do
    place = text:match('^%s*"()', at)
    if not place then
      return nil
    end
    local key, value, sign
    key, at = read_string(text, place)
    at = key and text:match("^%s*:()", at)
    if not at then
      return nil
    end
    value, at = read_value(text, at, depth)
    if value == nil then
      return nil
    end
    object[key] = value
    place, sign = text:match("^%s*()([,}])", at)
    if not place then
      return nil
    elseif sign == "}" then
      return object, place + 1
    end
    at = place + 1
  end
end

local WORDS = { t = { "true", true }, f = { "false", false }, n = { "null", NULL } }

function read_value(text, at, depth)
  local place, sign = text:match("^%s*()(.)", at)
  if not place or depth > DEEPEST then
    return nil
  elseif sign == '"' then
    return read_string(text, place + 1)
  elseif sign == "{" then
    return read_object(text, place + 1, depth + 1)
  elseif sign == "[" then
    return read_list(text, place + 1, depth + 1)
  end
  local word = WORDS[sign]
  if word then
    local after = place + #word[1]
    if text:sub(place, after - 1) == word[1] then
      return word[2], after
    end
    return nil
  end
  local number, after = text:match("^(%-?%d[%d.eE+-]*)()", place)
  if number then
    return number, after
  end
end

local function read_json(text)
  local value, after = read_value(text, 1, 0)
  local whole = value ~= nil and not text:find("%S", after)
  return whole and value or nil
end

-- A field of an object; nil if it is missing, null or has another type.
local function field(object, key, kind)
  local value = type(object) == "table" and object[key] or nil
  return value ~= NULL and type(value) == kind and value or nil
end

local function is_set(object, key)
  return object[key] ~= nil and object[key] ~= NULL and object[key] ~= false
end

-- One answer while it passes.

local function note_fault(answer, fault)
  answer.fault = answer.fault or fault
end

local function note_text(answer, text)
  answer.has_content = answer.has_content or (text ~= nil and text ~= "")
end

local function note_arguments(answer, call, text)
  if text and text ~= "" then
    answer.calls[call] = answer.calls[call] or {}
    table.insert(answer.calls[call], text)
  end
end

local function note_tool_calls(answer, choice, said)
  for place, call in ipairs(field(said, "tool_calls", "table") or {}) do
    local name = choice .. " " .. (field(call, "index", "string") or tostring(place))
    note_arguments(answer, name, field(field(call, "function", "table"), "arguments", "string"))
    answer.has_content = true
  end
end

-- OpenAI's chat and plain completions, streamed or whole.
local function note_choices(answer, event, whole)
  for place, choice in ipairs(field(event, "choices", "table")) do
    if type(choice) == "table" then
      local said = field(choice, "delta", "table") or field(choice, "message", "table") or NULL
      note_text(answer, field(choice, "text", "string"))
      note_text(answer, field(said, "content", "string"))
      note_text(answer, field(said, "reasoning_content", "string"))
      note_text(answer, field(said, "reasoning", "string"))
      note_text(answer, field(said, "refusal", "string"))
      note_tool_calls(answer, field(choice, "index", "string") or tostring(place), said)
      local reason = field(choice, "finish_reason", "string")
      if reason == "error" or reason == "abort" then
        note_fault(answer, "aborted")
      elseif reason then
        answer.ended = true
        -- A client's own limit of tokens may cut a tool call.
        answer.cut_by_limit = answer.cut_by_limit or reason == "length"
      end
    end
  end
  if whole and #event.choices == 0 then
    note_fault(answer, "no_choices")
  end
end

-- Anthropic's prompts: a stream tells them in its first event and may tell 0 in its last. Cached parts are counted apart
-- there, and here they are part of the prompt, as in OpenAI's form.
local function note_prompt(answer, usage)
  local sum = 0
  for _, part in ipairs({ "input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens" }) do
    sum = sum + (tonumber(field(usage, part, "string")) or 0)
  end
  answer.prompt_tokens = math.max(answer.prompt_tokens or 0, sum)
end

-- OpenAI's responses and Anthropic's messages: events with a type.
local function note_typed(answer, event, kind)
  if kind == "error" or kind == "response.failed" then
    note_fault(answer, "error_event")
  elseif ENDS[kind] then
    answer.ended = true
    answer.cut_by_limit = answer.cut_by_limit or kind == "response.incomplete"
  elseif kind == "content_block_delta" then
    answer.has_content = true
    local call = field(event, "index", "string") or ""
    note_arguments(answer, call, field(field(event, "delta", "table"), "partial_json", "string"))
  elseif kind == "message" then
    note_prompt(answer, field(event, "usage", "table"))
  elseif kind == "message_start" then
    note_prompt(answer, field(field(event, "message", "table"), "usage", "table"))
  elseif kind == "message_delta" then
    note_prompt(answer, field(event, "usage", "table"))
    local reason = field(field(event, "delta", "table"), "stop_reason", "string")
    answer.cut_by_limit = answer.cut_by_limit or reason == "max_tokens"
  elseif kind:find("%.delta$") then
    answer.has_content = true
    if kind:find("arguments", 1, true) then
      note_arguments(answer, field(event, "output_index", "string") or "", field(event, "delta", "string"))
    end
  end
end

local function note_event(answer, event, whole)
  local kind = field(event, "type", "string")
  if is_set(event, "error") or event.object == "error" or kind == "error" then
    note_fault(answer, "error_event")
  elseif field(event, "choices", "table") then
    note_choices(answer, event, whole)
  elseif kind then
    note_typed(answer, event, kind)
  elseif not answer.form then
    answer.has_content = true
  end
  -- A whole response of `/v1/responses` says so of itself.
  if whole and (event.status == "failed" or event.status == "cancelled") then
    note_fault(answer, "aborted")
  end
end

local function note_data(answer, data)
  if data == "[DONE]" then
    answer.done = true
    return
  end
  local event = read_json(data)
  if type(event) ~= "table" then
    note_fault(answer, "broken_json")
    return
  end
  note_event(answer, event, false)
end

-- Most events of a stream differ in one text only. What surrounds that text in the last event that was read is kept, and
-- an event that has the same around another text without quotes and escapes tells nothing new: reading it costs 10 µs.
local function keep_surroundings(answer, line)
  answer.before, answer.after = nil, nil
  if answer.has_content and not answer.fault and not answer.ended then
    local key = line:find('"content":', 1, true) and "content" or "text"
    answer.before, answer.after = line:match('^(data: ?{.-"' .. key .. '": ?")[^"\\]*(".*)$')
  end
end

local function is_known(answer, line)
  local before, after = answer.before, answer.after
  return before and not answer.data and #line >= #before + #after and line:sub(1, #before) == before
    and line:sub(-#after) == after and line:find('["\\%c]', #before + 1) == #line - #after + 1
end

-- One line of a stream. An event's data may be spread over lines; an empty line ends the event.
local function note_line(answer, line)
  if is_known(answer, line) then
    return
  end
  local data = line:match("^data: ?(.*)")
  if data then
    answer.line = answer.data and "" or line
    answer.data = answer.data and (answer.data .. "\n" .. data) or data
  elseif line == "" then
    if answer.data then
      note_data(answer, answer.data)
      keep_surroundings(answer, answer.line)
    end
    answer.data = nil
  elseif line == "event: error" or line:find("^error: ") then
    -- Engines that write an error where a field's name should be: llama.cpp's older ones.
    note_fault(answer, "error_event")
  end
end

local function note_chunk(answer, text)
  answer.unread_bytes = answer.unread_bytes + #text
  if answer.unread_bytes > LONGEST_BYTES then
    answer.unread, answer.unread_bytes, answer.is_unreadable = {}, 0, true
  elseif not answer.streamed or not text:find("\n", 1, true) then
    table.insert(answer.unread, text)
  else
    table.insert(answer.unread, text)
    text = table.concat(answer.unread)
    local start = 1
    while true do
      local stop = text:find("\n", start, true)
      if not stop then
        break
      end
      note_line(answer, text:sub(start, text:byte(stop - 1) == 13 and stop - 2 or stop - 1))
      start = stop + 1
    end
    local rest = text:sub(start)
    answer.unread, answer.unread_bytes = { rest }, #rest + (answer.data and #answer.data or 0)
  end
end

local function note_end(answer)
  local rest = table.concat(answer.unread)
  if not answer.streamed then
    local whole = read_json(rest)
    if type(whole) ~= "table" then
      note_fault(answer, "broken_json")
    else
      note_event(answer, whole, true)
    end
  else
    -- The last event of some engines has no empty line after it; one that was cut is no JSON.
    note_line(answer, rest)
    note_line(answer, "")
    if not answer.ended and answer.form then
      note_fault(answer, "no_finish")
    end
  end
  for _, parts in pairs(answer.calls) do
    if not answer.cut_by_limit and type(read_json(table.concat(parts))) ~= "table" then
      note_fault(answer, "tool_call_cut")
    end
  end
  if answer.streamed and answer.form == "choices" and not answer.done then
    note_fault(answer, "no_done")
  end
end

-- A conversation's name may be a person's: the log has a number made of it (FNV-1a).
local function number_of(name)
  local hash = 2166136261
  for place = 1, math.min(#name, 256) do
    hash = bit.bxor(hash, name:byte(place))
    hash = bit.tobit(hash + bit.lshift(hash, 1) + bit.lshift(hash, 4) + bit.lshift(hash, 7) + bit.lshift(hash, 8)
      + bit.lshift(hash, 24))
  end
  return bit.tohex(hash)
end

function envoy_on_request(handle)
  local headers, metadata = handle:headers(), handle:streamInfo():dynamicMetadata()
  local path = (headers:get(":path") or ""):match("^[^?]*")
  for _, form in ipairs(FORMS) do
    if path:find(form[1]) then
      metadata:set(SPACE, "form", form[2])
      break
    end
  end
  metadata:set(SPACE, "sent_ms", handle:timestamp())
  local conversation = headers:get("x-conversation-id")
  if conversation then
    metadata:set(SPACE, "conversation_id", number_of(conversation))
  end
end

-- The filters before this one have written what the latest event says of the prompt.
local function tell_prompt(handle, answer)
  local metadata = handle:streamInfo():dynamicMetadata()
  local told = answer.prompt_tokens or 0
  if told > ((metadata:get(SPACE) or {}).prompt_tokens or 0) then
    metadata:set(SPACE, "prompt_tokens", told)
  end
end

function envoy_on_response(handle)
  local asked, headers = handle:streamInfo():dynamicMetadata():get(SPACE), handle:headers()
  local kind = headers:get("content-type") or ""
  local streamed = kind:find("text/event-stream", 1, true) ~= nil
  local judged = streamed or (asked and asked.form and kind:find("application/json", 1, true))
  local encoding = headers:get("content-encoding") or "identity"
  if not asked or not asked.sent_ms or headers:get(":status") ~= "200" or not judged or encoding ~= "identity" then
    return
  end
  local sent_ms = asked.sent_ms
  local answer = { form = asked.form, streamed = streamed, unread = {}, unread_bytes = 0, calls = {} }
  local content_seen, fault = false, nil
  for chunk in handle:bodyChunks() do
    if not answer.is_unreadable then
      note_chunk(answer, chunk:getBytes(0, chunk:length()))
    end
    -- At once, because a client may leave before the end. Envoy invalidates objects when a script yields.
    if streamed and answer.prompt_tokens then
      tell_prompt(handle, answer)
    end
    if streamed and (answer.has_content or answer.is_unreadable) and not content_seen then
      content_seen = true
      handle:streamInfo():dynamicMetadata():set(SPACE, "first_token_ms", handle:timestamp() - sent_ms)
    end
    if answer.fault ~= fault then
      fault = answer.fault
      handle:streamInfo():dynamicMetadata():set(SPACE, "fault", fault)
    end
  end
  if not answer.is_unreadable then
    note_end(answer)
  end
  tell_prompt(handle, answer)
  if answer.fault ~= fault then
    handle:streamInfo():dynamicMetadata():set(SPACE, "fault", answer.fault)
  end
end
