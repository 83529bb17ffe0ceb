# frozen_string_literal: true

# ruby rack_attack.rb STORE: what Rack::Attack asks of a store is what it gets.
# The role may call rl_block and rl_unblock.

require "rack"
require "rack/attack"
require ARGV.fetch(0)

def check(what, is, expected)
  raise "#{what}: #{is.inspect}, not #{expected.inspect}" unless is == expected
end

cache = Rack::Attack.cache
cache.store = RackAttackPostgresqlStore.new(limiter: "rack-attack #{Process.pid}")

# counts, in windows that are those of Rack::Attack, whatever their length and the key
[1, 10, 60, 90, 3600, 86_400, 2_592_000].each do |period|
  ["a", "203.0.113.7", "2001:db8::/64", "it's \"é\"\n:5:", "k" * 300].each do |key|
    # a window may end meanwhile
    counts = nil
    10.times do |i|
      window = Time.now.to_i / period
      counts = Array.new(3) { cache.count("#{i} #{period} #{key}", period) }
      break if Time.now.to_i / period == window
    end
    check("counts of #{key} in #{period} s", counts, [1, 2, 3])
  end
end

# bans
banned = ->(key) { Rack::Attack::Fail2Ban.banned?(key) }
options = { maxretry: 3, findtime: 3600, bantime: 600 }
2.times { Rack::Attack::Fail2Ban.filter("203.0.113.9", options) { true } }
check("banned after 2", banned.call("203.0.113.9"), false)
Rack::Attack::Fail2Ban.filter("203.0.113.9", options) { true }
check("banned after 3", banned.call("203.0.113.9"), true)
check("another is banned", banned.call("203.0.113.8"), false)
check("a good request of who is banned", Rack::Attack::Fail2Ban.filter("203.0.113.9", options) { false }, true)
Rack::Attack::Fail2Ban.reset("203.0.113.9", options)
check("banned after reset", banned.call("203.0.113.9"), false)

now = -> { Process.clock_gettime(Process::CLOCK_MONOTONIC) }
began = now.call
Rack::Attack::Fail2Ban.filter("203.0.113.10", options.merge(maxretry: 1, bantime: 1)) { true }
while banned.call("203.0.113.10")
  raise "a ban of a second does not end" if now.call > began + 60
end
raise "a ban of a second ends before" if now.call < began + 0.99
