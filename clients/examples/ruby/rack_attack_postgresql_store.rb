# frozen_string_literal: true

require "connection_pool"
require "digest"
require "pg"

# A cache store for Rack::Attack that counts in PostgreSQL, with rl_count of the extension ratelimit.
#
#   Rack::Attack.cache.store = RackAttackPostgresqlStore.new
#
# Throttles and tracks are counted in the windows that Rack::Attack has, by the database's clock.
# The role needs, the last two for Fail2Ban and Allow2Ban,
#
#   GRANT EXECUTE ON FUNCTION rl_count, rl_block, rl_unblock TO app
#
# While the database has no answer, nothing is counted and nobody is banned, so requests pass. It
# is asked again after a second.
class RackAttackPostgresqlStore
  TIMEOUT = 0.5 # seconds that a request waits for the database
  RETRY = 1 # seconds after which a lost database is asked again
  LONGEST_KEY = 255 # bytes

  # What Rack::Attack calls a count: its prefix, the number of the window since 1970, and for what.
  COUNT = /\A.*?:(?<window>\d+):(?<name>.+)\z/m

  # connection: options of PG.connect; without any, PGHOST and so on say where the database is.
  # limiter: the name under which counts are kept and shown.
  def initialize(connection: {}, limiter: "rack-attack", size: 5, logger: nil)
    @limiter = limiter
    @logger = logger
    @retry_at = 0
    @pool = ConnectionPool.new(size: size, timeout: TIMEOUT) { Connection.new(connection) }
  end

  # Count hits. Without the database 0, as Rack::Attack would write the key after nil.
  def increment(key, amount = 1, expires_in:)
    match = COUNT.match(key)
    # expires_in is the rest of the window, and a second
    ends = Time.now.to_i + expires_in - 1
    seconds = ends.fdiv(match[:window].to_i + 1).round

    query("SELECT hits::bigint FROM rl_count($1, $2, $3::float8, $4)",
          [short(match[:name]), "#{seconds} seconds", amount, @limiter]) || 0
  end

  # Is the key banned? 1 or nil.
  def read(key)
    query("SELECT 1 FROM rl_peek($1, 1, 1, 0, $2) WHERE NOT allowed", [short(key), @limiter])
  end

  # Ban the key.
  def write(key, _value, expires_in:)
    query("SELECT 1 FROM rl_block($1, make_interval(secs => $2::float8), $3)", [short(key), expires_in, @limiter])
  end

  # The key is not banned any more. A count stays as it is until its window ends.
  def delete(key)
    query("SELECT 1 WHERE rl_unblock($1, $2)", [short(key), @limiter])
  end

  private

  def short(key)
    key.bytesize <= LONGEST_KEY ? key : "sha256:#{Digest::SHA256.hexdigest(key)}"
  end

  def query(sql, parameters)
    return if now < @retry_at

    @pool.with { |connection| connection.integer(sql, parameters) }
  rescue PG::ServerError => e
    # about this query only
    @logger&.error("Rack::Attack: #{e.message}")
    nil
  rescue PG::Error, Timeout::Error => e
    @retry_at = now + RETRY
    @logger&.warn("Rack::Attack: requests pass without a limit: #{e.message}")
    nil
  end

  def now
    Process.clock_gettime(Process::CLOCK_MONOTONIC)
  end

  # A connection that is made when it is first used, and again after it has been lost.
  class Connection
    def initialize(options)
      @options = { connect_timeout: 1, application_name: "rack-attack" }.merge(options)
    end

    # The only column of the only row, or nil.
    def integer(sql, parameters)
      @pg ||= PG.connect(@options)
      @pg.send_query_params(sql, parameters)
      raise PG::ConnectionBad, "no answer in time" unless @pg.block(TIMEOUT)

      result = @pg.get_last_result
      result.ntuples.zero? ? nil : result.getvalue(0, 0)&.to_i
    rescue PG::Error
      # what it still has to say would be taken for the next answer
      @pg&.close
      @pg = nil
      raise
    end
  end
end
