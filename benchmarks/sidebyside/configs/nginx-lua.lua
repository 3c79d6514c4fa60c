-- What an OpenResty site writes by hand: verify an HS256 token, count the subject in Redis, refuse above the limit.
local cjson = require "cjson.safe"
local hmac = require "openssl.hmac"
local redis = require "nginx.redis"

local SECRET = "@HS256_SECRET@"
local AUDIENCE = "@AUDIENCE@"
local LIMIT = 1000000000
local WINDOW_SECONDS = 60

local function refuse(status)
    ngx.status = status
    ngx.header["Content-Type"] = "application/json"
    ngx.print('{"status":', status, "}")
    return ngx.exit(status)
end

local function decode(part)
    return ngx.decode_base64((part:gsub("-", "+"):gsub("_", "/")) .. ("="):rep(-#part % 4))
end

local function same(left, right)
    if #left ~= #right then
        return false
    end
    local difference = 0
    for i = 1, #left do
        difference = bit.bor(difference, bit.bxor(left:byte(i), right:byte(i)))
    end
    return difference == 0
end

local function claims_of(authorization)
    if not authorization then
        return nil
    end
    local head, body, signature = authorization:match("^Bearer ([%w_-]+)%.([%w_-]+)%.([%w_-]+)$")
    if not head then
        return nil
    end
    local header = cjson.decode(decode(head) or "")
    if type(header) ~= "table" or header.alg ~= "HS256" then
        return nil
    end
    local expected = hmac.new(SECRET, "sha256"):final(head .. "." .. body)
    if not same(expected, decode(signature) or "") then
        return nil
    end
    local claims = cjson.decode(decode(body) or "")
    if type(claims) ~= "table" or claims.aud ~= AUDIENCE or (tonumber(claims.exp) or 0) <= ngx.time() or type(claims.sub) ~= "string" then
        return nil
    end
    return claims
end

local claims = claims_of(ngx.var.http_authorization)
if not claims then
    return refuse(401)
end

local store = redis:new()
store:set_timeout(1000)
if not store:connect("@REDIS_HOST@", @REDIS_PORT@) then
    return refuse(503)
end
local key = "rate:" .. claims.sub .. ":" .. math.floor(ngx.time() / WINDOW_SECONDS)
local count = store:incr(key)
if not count then
    return refuse(503)
end
if count == 1 then
    store:expire(key, 2 * WINDOW_SECONDS)
end
store:set_keepalive(60000, 256)
if count > LIMIT then
    return refuse(429)
end
