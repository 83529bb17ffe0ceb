-- http-request lua.ratelimit ADDRESS:PORT asks the gateway there, and sets variables:
-- txn.ratelimit_denied, txn.ratelimit, txn.ratelimit_policy and txn.retry_after.

local TIMEOUT = 2000	-- ms

-- fields of the answer, and the variables that get them
local FIELDS = {
	["ratelimit"] = "txn.ratelimit",
	["ratelimit-policy"] = "txn.ratelimit_policy",
	["retry-after"] = "txn.retry_after",
}

core.register_action("ratelimit", { "http-req" }, function(txn, gateway)
	local headers = {
		["x-forwarded-for"] = { txn.f:src() },
		["x-forwarded-method"] = { txn.f:method() },
		["x-forwarded-host"] = { txn.f:req_hdr("host") or "" },
		["x-forwarded-uri"] = { txn.f:pathq() },
		-- for "header:x-api-key" in the gateway's file
		["x-api-key"] = { txn.f:req_fhdr("x-api-key") or "" },
	}
	local answer = core.httpclient():get {
		url = "http://" .. gateway .. "/check",
		headers = headers,
		timeout = TIMEOUT,
	}

	-- while the gateway itself is away: allow
	if not answer or not answer.status or answer.status < 200 or answer.status >= 500 then
		return
	end
	txn:set_var("txn.ratelimit_denied", answer.status ~= 200)
	for name, variable in pairs(FIELDS) do
		local values = answer.headers and answer.headers[name]

		if values and values[0] then
			txn:set_var(variable, values[0])
		end
	end
end, 1)
