# frozen_string_literal: true

# puma config.ru: requests are limited to 100 in each 5 seconds from each address.

require "ipaddr"
require "logger"
require "rack/attack"
require_relative "rack_attack_postgresql_store"

Rack::Attack.cache.store = RackAttackPostgresqlStore.new(logger: Logger.new($stderr))

# Of an IPv6 address the /64 network counts: whoever has one address of it has them all.
Rack::Attack.throttle("ip", limit: 100, period: 5) do |request|
  address = IPAddr.new(request.ip).native
  address.ipv6? ? "#{address.mask(64)}/64" : address.to_s
end

Rack::Attack.throttled_responder = lambda do |request|
  match = request.env["rack.attack.match_data"]
  seconds = match[:period] - match[:epoch_time] % match[:period]
  name = request.env["rack.attack.matched"]
  [
    429,
    {
      "content-type" => "text/plain",
      "retry-after" => seconds.to_s,
      "ratelimit" => %("#{name}";r=0;t=#{seconds}),
      "ratelimit-policy" => %("#{name}";q=#{match[:limit]};w=#{match[:period]})
    },
    ["Too many requests\n"]
  ]
end

use Rack::Attack
run ->(_env) { [200, { "content-type" => "text/plain" }, ["hello\n"]] }
