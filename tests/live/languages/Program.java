// Of test_supervised_languages.py: threads, and processes started by a helper of the JVM's own.
import java.io.File;
import java.nio.file.FileSystemException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.ArrayList;
import java.util.concurrent.Callable;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;

class Program {
    public static void main(String[] words) throws Exception {
        var pool = Executors.newFixedThreadPool(16);
        var tasks = new ArrayList<Callable<Boolean>>();
        for (int i = 0; i < 32; i++) {
            Path path = Path.of(words[0], "java" + i), other = Path.of(words[0], "java" + i + ".2");
            tasks.add(() -> {
                Files.writeString(path, "text");
                Files.move(path, other, StandardCopyOption.ATOMIC_MOVE);
                Files.delete(other);
                return true;
            });
        }
        int made = 0;
        for (Future<Boolean> done : pool.invokeAll(tasks)) made += done.get() ? 1 : 0;
        pool.shutdown();
        System.out.println("changes " + made);
        for (int i = 0; i < 2; i++) {
            var child = new ProcessBuilder("/bin/echo", "child").start();
            System.out.print(new String(child.getInputStream().readAllBytes()));
            child.waitFor();
        }
        try {
            Files.delete(Path.of(words[1]));
            System.out.println("kept removed");
        } catch (FileSystemException error) {
            var why = "Operation not permitted".equals(error.getReason()) ? "EPERM" : "another error";
            System.out.println("kept " + why);
        }
    }
}
