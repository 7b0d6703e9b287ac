import com.sun.net.httpserver.*;
import java.io.FileInputStream;
import java.net.InetSocketAddress;
import java.security.KeyStore;
import java.util.Map;
import java.util.concurrent.*;
import javax.net.ssl.*;

/** Java's own server. System properties set how long connections may be idle. */
class Server {
    public static void main(String[] arguments) throws Exception {
        var password = "password".toCharArray();
        var store = KeyStore.getInstance("PKCS12");
        store.load(new FileInputStream("server.p12"), password);
        var keys = KeyManagerFactory.getInstance("PKIX");
        keys.init(store, password);
        var context = SSLContext.getInstance("TLS");
        context.init(keys.getKeyManagers(), null, null);

        var server = HttpsServer.create(new InetSocketAddress(443), 0);
        server.setHttpsConfigurator(new HttpsConfigurator(context) {
            @Override public void configure(HttpsParameters parameters) {
                var own = context.getDefaultSSLParameters();
                own.setProtocols(new String[] {System.getenv("TLS")});
                parameters.setSSLParameters(own);
            }
        });
        // By default, it serves one connection at a time.
        server.setExecutor(Executors.newCachedThreadPool());
        int most = Integer.parseInt(System.getenv("REQUESTS"));
        Map<InetSocketAddress, Integer> requests = new ConcurrentHashMap<>();
        server.createContext("/", exchange -> {
            exchange.getRequestBody().readAllBytes();
            var path = exchange.getRequestURI().getPath();
            System.out.println(exchange.getRequestMethod() + " " + path + " -");
            if (requests.merge(exchange.getRemoteAddress(), 1, Integer::sum) >= most) {
                exchange.getResponseHeaders().set("Connection", "close");
            }
            var content = path.getBytes();
            exchange.sendResponseHeaders(200, content.length);
            exchange.getResponseBody().write(content);
            exchange.close();
        });
        server.start();
    }
}
