package peers;

import com.google.gson.Gson;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.Map;
import org.redisson.Redisson;
import org.redisson.api.RedissonClient;
import org.redisson.config.Config;

/** The contender in Java. What it does, and what it is asked, is in benches/README.md. Usage: peers.jar URL */
public final class Main {
    private static final Gson GSON = new Gson();

    private final String url;
    /** By TTL in milliseconds: a lock that is renewed has the TTL of its client. */
    private final Map<Long, RedissonClient> clients = new HashMap<>();

    private Main(String url) {
        this.url = url;
    }

    public static void main(String[] words) throws IOException {
        System.setProperty("org.slf4j.simpleLogger.defaultLogLevel", "warn");
        if (words.length != 1) {
            System.err.println("usage: peers.jar URL");
            System.exit(2);
        }
        Main contender = new Main(words[0]);
        contender.client(Work.DEFAULT_TTL_MILLIS);
        say(Map.of("ready", true));

        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            say(contender.answer(line));
        }
        // At once: Redisson's own threads would keep the process going.
        System.exit(0);
    }

    private static void say(Object answer) {
        System.out.println(GSON.toJson(answer));
        System.out.flush();
    }

    private Object answer(String line) {
        try {
            Work work = GSON.fromJson(line, Work.class);
            return work.doneWith(client(work.ttlMillis()));
        } catch (Exception error) {
            return Map.of("error", error.toString());
        }
    }

    private RedissonClient client(long ttlMillis) {
        return clients.computeIfAbsent(ttlMillis, millis -> {
            Config config = new Config();
            config.setLockWatchdogTimeout(millis);
            config.useSingleServer().setAddress(url);
            return Redisson.create(config);
        });
    }
}
