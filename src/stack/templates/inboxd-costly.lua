
-- What is above is inboxd.lua. This is what the second password database adds: it runs in worker processes, and verifies
-- there what takes long, so that no other login waits for it.

-- A password that was verified is handed to inboxd, which replaces the costly hash by one of its own scheme. It goes through
-- a pipe that inboxd reads, so it is never on a disk. Without an inboxd nothing is handed over, and the login goes on.
local verified_passwords = root .. "/.verified-passwords"
-- A worker that writes into a full pipe waits. So it writes only while inboxd has renewed its lease within so many seconds,
-- and so many messages for one lease: those of two workers fit into a pipe, which inboxd has found empty (pipe(7): 16 pages,
-- and a message is at most one).
local lease_seconds, messages_per_lease, message_octets_max = 15, 4, 4000
local last_lease, handed_over = nil, 0

-- Whether another message may be handed over now.
local function has_lease()
  local file = io.open(verified_passwords .. "/lease", "r")
  if file == nil then return false end
  local lease = file:read("*l")
  file:close()
  local given = tonumber(string.match(lease or "", "^(%d+) %d+$"))
  if given == nil or math.abs(os.time() - given) > lease_seconds then return false end
  if lease ~= last_lease then last_lease, handed_over = lease, 0 end
  return handed_over < messages_per_lease
end

-- "r+" opens a pipe without waiting for a reader, and makes no file where there is none.
local function hand_over(found, password)
  -- It may have been replaced since the first database has read it.
  if found.sasl_name == "" or not is_costly(found.hash) or not has_lease() then return end
  local digits = string.gsub(password, ".", function(octet) return string.format("%02x", octet:byte()) end)
  local message = found.sasl_name .. " " .. found.hash .. " " .. digits .. "\n"
  if #message > message_octets_max then return end
  local pipe = io.open(verified_passwords .. "/pipe", "r+")
  if pipe == nil then return end
  handed_over = handed_over + 1
  -- Buffered, and so one write(2).
  pipe:write(message)
  pipe:close()
end

function auth_password_verify(req, password)
  local found, result, reason = login(req)
  if found == nil then return result, reason end
  local matches = req:password_verify(found.hash, password)
  if matches == 0 then return dovecot.auth.PASSDB_RESULT_PASSWORD_MISMATCH, "password mismatch" end
  if matches ~= 1 then return dovecot.auth.PASSDB_RESULT_INTERNAL_FAILURE, "cannot verify the password" end
  -- Whatever fails there is no reason to refuse a right password.
  pcall(hand_over, found, password)
  return dovecot.auth.PASSDB_RESULT_OK, answer_of(found, req.service or req.protocol)
end
