import jakarta.servlet.FilterChain;
import jakarta.servlet.ServletException;
import jakarta.servlet.http.HttpFilter;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.net.Inet6Address;
import java.net.InetAddress;
import java.net.UnknownHostException;
import java.sql.Connection;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.util.Arrays;
import java.util.logging.Level;
import java.util.logging.Logger;
import javax.sql.DataSource;

/**
 * Limits the requests of each client address. All answers have the fields RateLimit and
 * RateLimit-Policy. A request that is denied gets status 429 with Retry-After.
 *
 * <p>While the database has no answer, requests pass, and it is asked again after a second. How
 * long one request waits for it is up to the DataSource: see Server.java.
 *
 * <p>For a servlet container with javax.servlet, replace jakarta by javax.
 */
public final class RateLimitFilter extends HttpFilter {
    private static final Logger LOG = Logger.getLogger(RateLimitFilter.class.getName());
    private static final long RETRY_NANOS = 1_000_000_000;

    private static final String[] FIELDS = {"RateLimit", "RateLimit-Policy", "Retry-After"};
    private static final String SQL = """
        SELECT r.allowed, h ->> 'RateLimit', h ->> 'RateLimit-Policy', h ->> 'Retry-After'
        FROM rl_throttle(?, ?, ?, 1, ?) AS r, rl_headers(r, ?) AS h
        """;

    private final transient DataSource database;
    private final String limiter;
    private final double capacity;
    private final double refill;
    private volatile long retryAt = System.nanoTime();

    /**
     * @param limiter the name under which the rule's buckets are kept and shown
     * @param capacity requests at once
     * @param refill requests per second after that
     */
    public RateLimitFilter(DataSource database, String limiter, double capacity, double refill) {
        this.database = database;
        this.limiter = limiter;
        this.capacity = capacity;
        this.refill = refill;
    }

    @Override
    protected void doFilter(HttpServletRequest request, HttpServletResponse response, FilterChain chain)
            throws IOException, ServletException {
        if (isAllowed(keyOf(request.getRemoteAddr()), response)) {
            chain.doFilter(request, response);
        } else {
            response.setStatus(429);
            response.setContentType("text/plain;charset=utf-8");
            response.getWriter().println("Too many requests");
        }
    }

    private boolean isAllowed(String key, HttpServletResponse response) {
        if (System.nanoTime() - retryAt < 0) {
            return true;
        }
        try (Connection connection = database.getConnection();
                PreparedStatement statement = connection.prepareStatement(SQL)) {
            statement.setString(1, key);
            statement.setDouble(2, capacity);
            statement.setDouble(3, refill);
            statement.setString(4, limiter);
            statement.setString(5, limiter);
            try (ResultSet result = statement.executeQuery()) {
                result.next();
                for (int i = 0; i < FIELDS.length; i++) {
                    String value = result.getString(i + 2);
                    if (value != null) {
                        response.setHeader(FIELDS[i], value);
                    }
                }
                return result.getBoolean(1);
            }
        } catch (SQLException e) {
            retryAt = System.nanoTime() + RETRY_NANOS;
            LOG.log(Level.WARNING, "requests pass without a limit: {0}", e.getMessage());
            return true;
        }
    }

    /** An address. Of IPv6, the /64 network: whoever has one address of it has them all. */
    static String keyOf(String address) {
        try {
            // an address is parsed and not looked up; an IPv4 address within IPv6 becomes IPv4
            InetAddress parsed = InetAddress.getByName(address);
            if (parsed instanceof Inet6Address) {
                byte[] network = Arrays.copyOf(Arrays.copyOf(parsed.getAddress(), 8), 16);
                return InetAddress.getByAddress(network).getHostAddress() + "/64";
            }
            return parsed.getHostAddress();
        } catch (UnknownHostException e) {
            return "unknown";
        }
    }
}
