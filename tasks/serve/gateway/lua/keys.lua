-- Authenticate a request: look up the SHA-256 of its API key among the keys of `keys.json`.
--
-- The route's filter context maps a digest in hex to {client, expires}; `expires` is in seconds since the epoch,
-- 0 for never. Engines and logs get the client's name, never the key. Anthropic's clients send the
-- key as `x-api-key`.

local bit = require("bit")
local band, bnot, bxor, ror, rshift, tobit = bit.band, bit.bnot, bit.bxor, bit.ror, bit.rshift, bit.tobit

local LONGEST_KEY = 512

-- FIPS 180-4, 4.2.2 and 5.3.3: the fractional parts of the roots of the first primes.
local function fraction(root)
  return tobit(math.floor((root - math.floor(root)) * 2 ^ 32))
end

local K, START = {}, {}
do
  local number = 2
  while #K < 64 do
    local prime = true
    for divisor = 2, math.sqrt(number) do
      prime = prime and number % divisor ~= 0
    end
    if prime then
      K[#K + 1] = fraction(number ^ (1 / 3))
      if #START < 8 then
        START[#START + 1] = fraction(math.sqrt(number))
      end
    end
    number = number + 1
  end
end

local function digest(text)
  local bits = #text * 8
  text = text .. "\128" .. ("\0"):rep((55 - #text) % 64) .. ("\0"):rep(4)
    .. string.char(band(rshift(bits, 24), 255), band(rshift(bits, 16), 255), band(rshift(bits, 8), 255), band(bits, 255))
  local state, w = { unpack(START) }, {}
  for block = 1, #text, 64 do
    for t = 1, 16 do
      local b1, b2, b3, b4 = text:byte(block + t * 4 - 4, block + t * 4 - 1)
      w[t] = tobit(b1 * 2 ^ 24 + b2 * 2 ^ 16 + b3 * 2 ^ 8 + b4)
    end
    for t = 17, 64 do
      local near, far = w[t - 2], w[t - 15]
      local s1 = bxor(ror(near, 17), ror(near, 19), rshift(near, 10))
      local s0 = bxor(ror(far, 7), ror(far, 18), rshift(far, 3))
      w[t] = tobit(s1 + w[t - 7] + s0 + w[t - 16])
    end
    local a, b, c, d, e, f, g, h = unpack(state)
    for t = 1, 64 do
      local s1 = bxor(ror(e, 6), ror(e, 11), ror(e, 25))
      local t1 = h + s1 + bxor(band(e, f), band(bnot(e), g)) + K[t] + w[t]
      local s0 = bxor(ror(a, 2), ror(a, 13), ror(a, 22))
      local t2 = s0 + bxor(band(a, b), band(a, c), band(b, c))
      a, b, c, d, e, f, g, h = tobit(t1 + t2), a, b, c, tobit(d + t1), e, f, g
    end
    for place, value in ipairs({ a, b, c, d, e, f, g, h }) do
      state[place] = tobit(state[place] + value)
    end
  end
  for place = 1, 8 do
    state[place] = bit.tohex(state[place])
  end
  return table.concat(state)
end

local function refuse(handle, message)
  local body = '{"error":{"message":"' .. message
    .. '","type":"invalid_request_error","code":"invalid_api_key","param":null}}'
  handle:respond({ [":status"] = "401", ["content-type"] = "application/json" }, body)
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local key = (headers:get("authorization") or ""):match("^[Bb]earer +(%S+)$") or headers:get("x-api-key")
  local known = key and #key <= LONGEST_KEY and handle:filterContext():get(digest(key))
  if not known then
    refuse(handle, "Missing or unknown API key.")
  elseif known.expires > 0 and os.time() >= known.expires then
    refuse(handle, "This API key has expired.")
  else
    headers:replace("x-weighbridge-client", known.client)
    headers:remove("authorization")
    headers:remove("x-api-key")
  end
end
