import com.zaxxer.hikari.HikariConfig;
import com.zaxxer.hikari.HikariDataSource;
import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.nio.file.Files;
import org.apache.catalina.Context;
import org.apache.catalina.startup.Tomcat;
import org.apache.tomcat.util.descriptor.web.FilterDef;
import org.apache.tomcat.util.descriptor.web.FilterMap;

/** An embedded Tomcat whose requests are limited to 100 at once and then 10 a second. */
public final class Server {
    public static void main(String[] args) throws Exception {
        Tomcat tomcat = new Tomcat();
        tomcat.setBaseDir(Files.createTempDirectory("tomcat").toString());
        tomcat.setPort(Integer.parseInt(env("PORT", "8080")));
        tomcat.getConnector();

        Context context = tomcat.addContext("", null);
        FilterDef filter = new FilterDef();
        filter.setFilterName("ratelimit");
        filter.setFilter(new RateLimitFilter(pool(), "java", 100, 10));
        filter.setAsyncSupported("true");
        context.addFilterDef(filter);
        FilterMap map = new FilterMap();
        map.setFilterName("ratelimit");
        map.addURLPattern("/*");
        context.addFilterMap(map);

        Tomcat.addServlet(context, "hello", new HttpServlet() {
            @Override
            protected void doGet(HttpServletRequest request, HttpServletResponse response) throws IOException {
                response.getWriter().println("hello");
            }
        }).addMapping("/");

        tomcat.start();
        tomcat.getServer().await();
    }

    /** A pool that starts without the database, and gives up waiting for it soon. */
    private static HikariDataSource pool() {
        HikariConfig config = new HikariConfig();
        config.setJdbcUrl("jdbc:postgresql://" + env("PGHOST", "localhost") + ":" + env("PGPORT", "5432") + "/" + env("PGDATABASE", "postgres"));
        config.setUsername(env("PGUSER", "postgres"));
        config.setPassword(System.getenv("PGPASSWORD"));
        config.setMaximumPoolSize(10);
        config.setInitializationFailTimeout(-1);
        config.setConnectionTimeout(500);                       // ms to wait for a connection of the pool
        config.setValidationTimeout(250);
        config.addDataSourceProperty("connectTimeout", "1");    // s
        config.addDataSourceProperty("socketTimeout", "1");     // s to wait for an answer
        config.addDataSourceProperty("ApplicationName", "java");
        return new HikariDataSource(config);
    }

    private static String env(String name, String otherwise) {
        String value = System.getenv(name);
        return value == null || value.isEmpty() ? otherwise : value;
    }
}
