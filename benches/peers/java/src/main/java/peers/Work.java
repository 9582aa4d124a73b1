package peers;

import com.google.gson.annotations.SerializedName;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import org.redisson.api.RLock;
import org.redisson.api.RedissonClient;

/** What the contender is asked to do. Times are in seconds. */
final class Work {
    static final long DEFAULT_TTL_MILLIS = 30_000;
    /** How long a task waits for its last grant, after its time is over. */
    private static final long PATIENCE_NANOS = TimeUnit.SECONDS.toNanos(30);

    @SerializedName("do")
    private String what;

    private String key;
    private List<String> keys;
    private double seconds;
    private double hold;
    private boolean waits;
    private double ttl = DEFAULT_TTL_MILLIS / 1e3;

    long ttlMillis() {
        return Math.round(ttl * 1e3);
    }

    Object doneWith(RedissonClient client) throws Exception {
        return switch (what) {
            case "pairs" -> pairs(client);
            case "hold" -> hold(client);
            case "take" -> take(client);
            case "tries" -> tries(client);
            default -> throw new IllegalArgumentException("no such work: " + what);
        };
    }

    record Pairs(long pairs, double seconds, int handovers, List<Integer> by_task, List<Double> waits) {}

    private Pairs pairs(RedissonClient client) throws Exception {
        Map<String, AtomicInteger> holders = new HashMap<>();
        CountDownLatch start = new CountDownLatch(1);
        List<Task> tasks = new ArrayList<>();
        for (String each : keys) {
            AtomicInteger holder = holders.computeIfAbsent(each, ignored -> new AtomicInteger(-1));
            tasks.add(new Task(tasks.size(), client.getLock(each), holder, start));
        }
        tasks.forEach(Thread::start);
        // All of the threads are there before the time begins.
        long started = System.nanoTime();
        long end = started + nanos(seconds);
        tasks.forEach(task -> task.end = end);
        start.countDown();
        for (Task task : tasks) {
            TimeUnit.NANOSECONDS.timedJoin(task, Math.max(1, end + PATIENCE_NANOS - System.nanoTime()));
            task.interrupt();
        }
        for (Task task : tasks) {
            task.join();
        }
        return summary(tasks, since(started));
    }

    private static Pairs summary(List<Task> tasks, double elapsed) throws Exception {
        long pairs = 0;
        int handovers = 0;
        List<Integer> byTask = new ArrayList<>();
        List<Double> waits = new ArrayList<>();
        for (Task task : tasks) {
            if (task.failure != null) {
                throw task.failure;
            }
            pairs += task.pairs;
            handovers += task.handovers;
            byTask.add(task.pairs);
            waits.addAll(task.waited);
        }
        return new Pairs(pairs, elapsed, handovers, byTask, waits);
    }

    /** Acquires and releases one lock again and again. A lock of Redisson belongs to a thread. */
    private final class Task extends Thread {
        private final int number;
        private final RLock lock;
        /** The task that had the key last. */
        private final AtomicInteger holder;
        private final CountDownLatch start;
        private final List<Double> waited = new ArrayList<>();
        /** Set before `start`, as is all that this thread reads. */
        private long end;
        private int pairs;
        private int handovers;
        private Exception failure;

        Task(int number, RLock lock, AtomicInteger holder, CountDownLatch start) {
            this.number = number;
            this.lock = lock;
            this.holder = holder;
            this.start = start;
        }

        @Override
        public void run() {
            try {
                start.await();
                while (oncePaired()) {
                    pairs++;
                }
            } catch (Exception error) {
                failure = error;
            }
        }

        /** Whether there was time for it, and it was granted. */
        private boolean oncePaired() throws InterruptedException {
            long asked = System.nanoTime();
            if (asked >= end) {
                return false;
            }
            boolean isGranted = isGranted();
            if (waits) {
                waited.add(since(asked));
            }
            if (!isGranted) {
                return false;
            }
            if (holder.getAndSet(number) != number) {
                handovers++;
            }
            if (hold > 0) {
                TimeUnit.NANOSECONDS.sleep(nanos(hold));
            }
            lock.unlock();
            return true;
        }

        /** As `lock` does it, but one that waits for longer than its patience is interrupted. */
        private boolean isGranted() {
            try {
                lock.lockInterruptibly(DEFAULT_TTL_MILLIS, TimeUnit.MILLISECONDS);
                return true;
            } catch (InterruptedException end) {
                return false;
            }
        }
    }

    private Object hold(RedissonClient client) {
        // Without a lease time it is renewed.
        client.getLock(key).lock();
        return Map.of("held", true);
    }

    private Object take(RedissonClient client) {
        RLock lock = client.getLock(key);
        long asked = System.nanoTime();
        lock.lock(ttlMillis(), TimeUnit.MILLISECONDS);
        double waited = since(asked);
        lock.unlock();
        return Map.of("waited", waited);
    }

    record Tries(long tries, double seconds) {}

    private Tries tries(RedissonClient client) throws InterruptedException {
        RLock lock = client.getLock(key);
        long done = 0;
        long started = System.nanoTime();
        while (System.nanoTime() - started < nanos(seconds)) {
            if (lock.tryLock(0, DEFAULT_TTL_MILLIS, TimeUnit.MILLISECONDS)) {
                throw new IllegalStateException("a held key was granted");
            }
            done++;
        }
        return new Tries(done, since(started));
    }

    private static long nanos(double seconds) {
        return Math.round(seconds * 1e9);
    }

    private static double since(long started) {
        return (System.nanoTime() - started) / 1e9;
    }
}
