package conformance;

import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.boot.context.event.ApplicationReadyEvent;
import org.springframework.cloud.netflix.eureka.server.EnableEurekaServer;
import org.springframework.context.annotation.Configuration;
import org.springframework.context.annotation.Profile;
import org.springframework.context.event.EventListener;

/** One program with three faces, by profile: `eureka`, `consul` (clients) and `server` (a Eureka server). */
@SpringBootApplication
public class Main {
    public static void main(String[] arguments) {
        SpringApplication.run(Main.class, arguments);
    }

    /** The test reads where; nothing before this line is of use to it. */
    @EventListener
    void ready(ApplicationReadyEvent event) {
        System.out.println("listening on " + event.getApplicationContext().getEnvironment().getProperty("local.server.port"));
    }

    /** Netflix's own server, as Spring Cloud ships it. */
    @Configuration
    @Profile("server")
    @EnableEurekaServer
    static class Server {}
}
