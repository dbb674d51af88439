-- inboxd: the password and user database of Dovecot (2.3 and 2.4 alike).
--
-- One small file per mailbox, @PASSDB_DIR@/<domain>/<local part>, opened on every look-up, so that
-- a mailbox works from the moment its file is there and is gone with it: nothing is cached, nothing reloaded.
-- The file holds one line in passwd-file syntax:
--
--   address:{SCHEME}hash:uid:gid:SASL name:home::extra fields
--
-- The SASL name is the inbox's id and the generation of its credentials. It is what Postfix gets as the name of a login,
-- so that a session is that of the inbox and these credentials, and not of whoever has the address later.
-- A hash of "*", or one of crypt(5) that begins with "!" or "*" (passwd(1), -l), locks the login while deliveries go on. Extra fields are key=value, separated by blanks; those
-- that start with userdb_ belong to the user database (without the prefix), all others to the password database.
--
-- Three answers besides the entry: no file is an unknown user; a file that cannot be read or does not parse is
-- a failure on our side, so that mail is deferred, not bounced, and clients try again.

local root = "@PASSDB_DIR@"

-- Whether the passdb behind this one verifies passwords that take long (inboxd-costly.lua, in worker processes).
local costly_are_verified_next = @COSTLY_ARE_VERIFIED_NEXT@

-- errno of open(2): the file, or the folder of its domain, does not exist.
local ENOENT, ENOTDIR = 2, 20

-- The entry of a user; or nil for an unknown user; or nil and what went wrong.
local function entry(user)
  local l, d = string.match(user, "^([%w._-]+)@([%w.-]+)$")
  if l == nil or #l > 64 or #d > 253 then return nil end
  -- A leading dot is a path trick or a file that is just being written.
  if l:sub(1, 1) == "." or d:sub(1, 1) == "." then return nil end
  l, d = l:lower(), d:lower()

  local file, _, code = io.open(root .. "/" .. d .. "/" .. l, "r")
  if file == nil then
    if code == ENOENT or code == ENOTDIR then return nil end
    return nil, "cannot open the entry"
  end
  local line = file:read("*l")
  file:close()
  if line == nil then return nil, "cannot read the entry" end

  local address, hash, uid, gid, sasl_name, home, extra =
    string.match(line, "^([^:]+):([^:]+):(%d+):(%d+):([^:]*):(/[^:]*):[^:]*:?(.*)$")
  if address ~= l .. "@" .. d then return nil, "malformed entry" end
  return { hash = hash, uid = uid, gid = gid, sasl_name = sasl_name, home = home, extra = extra }
end

-- Adds the extra fields of one database to its answer.
local function add_extra(answer, extra, of_userdb)
  for field in string.gmatch(extra, "%S+") do
    local key, value = string.match(field, "^([^=]+)=(.*)$")
    if key == nil then key, value = field, "yes" end
    local name = string.match(key, "^userdb_(.+)$")
    if of_userdb and name ~= nil then answer[name] = value end
    if not of_userdb and name == nil then answer[key] = value end
  end
  return answer
end

-- Schemes that are verified in well under a millisecond.
local cheap_schemes = {}
for name in string.gmatch("PLAIN CLEAR CLEARTEXT SHA SHA1 SHA256 SHA512 SSHA SSHA256 SSHA512 MD5 MD5-CRYPT PLAIN-MD5 " ..
  "PLAIN-MD4 LDAP-MD5 SMD5 CRAM-MD5 HMAC-MD5 DIGEST-MD5 DES-CRYPT", "%S+") do cheap_schemes[name] = true end

-- SHA-crypt with this many rounds is verified in a few milliseconds (crypt(5): 5,000 where none are written).
local cheap_rounds_max, default_rounds = 10000, 5000

-- Whether to verify a password against this hash takes so long that others must not wait for it.
local function is_costly(hash)
  local scheme, value = string.match(hash, "^{([^}.]+)[^}]*}(.*)$")
  if scheme == nil then return true end
  if cheap_schemes[scheme:upper()] then return false end
  -- What follows is crypt(5). A value of PBKDF2 begins with "$1$", too, and is no MD5-CRYPT.
  if not string.match(scheme:upper(), "CRYPT$") then return true end
  local id = string.match(value, "^%$([156])%$")
  if id == nil then return true end
  local rounds = string.match(value, "^%$[56]%$rounds=(%d+)%$")
  return id ~= "1" and (tonumber(rounds) or default_rounds) > cheap_rounds_max
end

-- The entry of a user who may log in; or nil, the result, and why.
local function login(req)
  local found, err = entry(req.user)
  if err ~= nil then return nil, dovecot.auth.PASSDB_RESULT_INTERNAL_FAILURE, err end
  if found == nil then return nil, dovecot.auth.PASSDB_RESULT_USER_UNKNOWN, "no such mailbox" end
  if found.hash == "*" or string.match(found.hash:upper(), "^{[%w-]*CRYPT}[!*]") then
    return nil, dovecot.auth.PASSDB_RESULT_USER_DISABLED, "login is locked"
  end
  return found
end

-- What a login gets besides its password.
local function answer_of(found, service)
  -- By this field inboxd knows that it is asked about a login whose password was right (auth_policy_request_attributes).
  local answer = { inboxd_login = "yes" }
  -- Entries of earlier releases have no SASL name, until inboxd starts.
  if service == "smtp" and found.sasl_name ~= "" then answer.user = found.sasl_name end
  return add_extra(answer, found.extra, false)
end

function auth_passdb_lookup(req)
  local found, result, reason = login(req)
  if found == nil then return result, reason end
  local service = req.service or req.protocol -- 2.3, 2.4
  local answer = answer_of(found, service)
  -- The daemon, which asks in the name of a service of its own, checks whether this is the entry that it has written. It
  -- gets the SASL name and all of the hash but the digest: enough to know it by the salt, and nothing that must not be in
  -- a debug log.
  if service == "inboxd" then
    answer.inboxd_entry = found.sasl_name .. " " .. (string.match(found.hash, "^(.*)%$[^$]*$") or "")
  elseif costly_are_verified_next and is_costly(found.hash) then
    return dovecot.auth.PASSDB_RESULT_NEXT, "a worker verifies this scheme"
  end
  answer.password = found.hash
  return dovecot.auth.PASSDB_RESULT_OK, answer
end

function auth_userdb_lookup(req)
  local found, err = entry(req.user)
  if err ~= nil then return dovecot.auth.USERDB_RESULT_INTERNAL_FAILURE, err end
  if found == nil then return dovecot.auth.USERDB_RESULT_USER_UNKNOWN, "no such mailbox" end
  local answer = { uid = found.uid, gid = found.gid, home = found.home }
  return dovecot.auth.USERDB_RESULT_OK, add_extra(answer, found.extra, true)
end

function script_init() return 0 end
function script_deinit() end
