package conformance;

import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicLong;
import org.springframework.boot.health.contributor.Health;
import org.springframework.boot.health.contributor.HealthIndicator;
import org.springframework.cloud.client.ServiceInstance;
import org.springframework.cloud.client.discovery.DiscoveryClient;
import org.springframework.cloud.client.discovery.event.HeartbeatEvent;
import org.springframework.cloud.client.loadbalancer.LoadBalanced;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;
import org.springframework.context.annotation.Primary;
import org.springframework.context.annotation.Profile;
import org.springframework.context.event.EventListener;
import org.springframework.core.env.Environment;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.PathVariable;
import org.springframework.web.bind.annotation.PutMapping;
import org.springframework.web.bind.annotation.RestController;
import org.springframework.web.client.RestClient;

/** Tells the test what the client sees: the registry through Spring's own interfaces, as an application would. */
@RestController
@Profile("!server")
public class Probe implements HealthIndicator {
    private final DiscoveryClient discovery;
    private final RestClient balanced;
    private final Environment environment;
    private final AtomicBoolean fit = new AtomicBoolean(true);
    private final AtomicLong heartbeats = new AtomicLong();

    Probe(DiscoveryClient discovery, @LoadBalanced RestClient.Builder balanced, Environment environment) {
        this.discovery = discovery;
        this.balanced = balanced.build();
        this.environment = environment;
    }

    /** With a first part of the path, too: a gateway does not take it off. */
    @GetMapping({"/whoami", "/*/whoami"})
    String whoami() {
        return "spring";
    }

    @GetMapping("/probe/services")
    List<String> services() {
        return discovery.getServices().stream().sorted().toList();
    }

    @GetMapping("/probe/instances/{service}")
    List<Map<String, Object>> instances(@PathVariable String service) {
        return discovery.getInstances(service).stream().map(Probe::shown).toList();
    }

    private static Map<String, Object> shown(ServiceInstance instance) {
        Map<String, Object> shown = new TreeMap<>();
        shown.put("id", String.valueOf(instance.getInstanceId()));
        shown.put("service", instance.getServiceId());
        shown.put("uri", instance.getUri().toString());
        shown.put("metadata", instance.getMetadata());
        return shown;
    }

    /** What another service answers, found and chosen by Spring Cloud LoadBalancer. */
    @GetMapping("/probe/call/{service}")
    String call(@PathVariable String service) {
        return balanced.get().uri("http://" + service + "/whoami").retrieve().body(String.class);
    }

    /** A property, wherever it comes from: Consul's keys, too. */
    @GetMapping("/probe/property/{name}")
    String property(@PathVariable String name) {
        return environment.getProperty(name, "");
    }

    /** How often the client noticed a change of the catalogue. */
    @GetMapping("/probe/heartbeats")
    long heartbeats() {
        return heartbeats.get();
    }

    @EventListener
    void heard(HeartbeatEvent event) {
        heartbeats.incrementAndGet();
    }

    /** Makes the application fit or unfit, by its own word. */
    @PutMapping("/probe/fit/{value}")
    void setFit(@PathVariable boolean value) {
        fit.set(value);
    }

    @Override
    public Health health() {
        return (fit.get() ? Health.up() : Health.down()).build();
    }

    @Configuration
    @Profile("!server")
    static class Builders {
        /** For the registry's own client: the only candidate where none is asked for by its qualifier. */
        @Bean
        @Primary
        RestClient.Builder plainBuilder() {
            return RestClient.builder();
        }

        @Bean
        @LoadBalanced
        RestClient.Builder balancedBuilder() {
            return RestClient.builder();
        }
    }
}
