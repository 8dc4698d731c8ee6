// Swagger UI over this service's own description. `validatorUrl` is null, or it would ask an outside host for a badge.
SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#docs",
  validatorUrl: null,
  deepLinking: true,
  defaultModelsExpandDepth: 0,
});
