// Swagger UI for this service's OpenAPI document. `validatorUrl` is null so that it loads no badge from another host.
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#docs",
  validatorUrl: null,
  deepLinking: true,
  defaultModelsExpandDepth: 0,
});
